"""A ComfyUI server as far as its frontend needs one: static files, `object_info`, empty answers to the rest."""

import asyncio
import io
import json
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from aiohttp import WSMsgType, web
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DEMO, WEB = ROOT / "demo", ROOT / "web"
EXTENSION = "/extensions/livetalk/"
"""Where ComfyUI serves the pack's `web/`."""
# What the frontend asks for when it starts, and what a server with nothing in it answers.
ANSWERS: dict[str, Any] = {
    "users": {"storage": "server", "migrated": True},
    "settings": {},
    "extensions": [f"{EXTENSION}livetalk.js"],
    "features": {},
    "i18n": {},
    "workflow_templates": {},
    "global_subgraphs": {},
    "node_replacements": {},
    "experiment/models": [],
    "userdata": [],
    "jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 0, "total": 0, "has_more": False}},
    "queue": {"queue_running": [], "queue_pending": []},
    "history": {},
    "embeddings": [],
}


class Stub:
    """The running stub; `push` speaks to the connected browser as a server does."""

    def __init__(self, static: Path, object_info: dict[str, Any], settings: dict[str, Any], files: Path) -> None:
        self.static, self.object_info, self.files = static, object_info, files
        self.answers = ANSWERS | {"settings": settings}
        self.sockets: list[web.WebSocketResponse] = []
        self.address = ""

    def push(self, message: dict[str, Any] | bytes) -> None:
        """Send a websocket message to every browser."""
        for socket in self.sockets:
            send = socket.send_bytes(message) if isinstance(message, bytes) else socket.send_json(message)
            asyncio.run_coroutine_threadsafe(send, self.loop).result(10)

    def push_preview(self, node: int | str) -> None:
        """A node begins to run, and shows a frame."""
        place = {"node_id": str(node), "display_node_id": str(node), "real_node_id": str(node), "prompt_id": "p"}
        about = json.dumps(place | {"parent_node_id": None, "image_type": "image/jpeg"}).encode()
        frame = io.BytesIO()
        Image.new("RGB", (64, 64), "teal").save(frame, "JPEG")
        self.push({"type": "execution_start", "data": {"prompt_id": "p", "timestamp": 0}})
        self.push({"type": "executing", "data": {"node": str(node), "display_node": str(node), "prompt_id": "p"}})
        self.push(struct.pack(">II", 4, len(about)) + about + frame.getvalue())

    def drop_preview(self, *nodes: str) -> None:
        """Nodes begin to run, in a prompt of its own: their previews go."""
        state = {"value": 1, "max": 1, "state": "running", "prompt_id": "q", "display_node_id": None}
        running = {node: state | {"node_id": node} for node in nodes}
        self.push({"type": "progress_state", "data": {"prompt_id": str(uuid.uuid4()), "nodes": running}})

    def push_text(self, node: int | str, text: str) -> None:
        """A node says something."""
        name = str(node).encode()
        self.push(struct.pack(">II", 3, len(name)) + name + text.encode())

    def push_video(self, node: int | str, name: str, codec: str = "") -> None:
        """A node has made a video in the output folder, in a `codec` that not every browser plays."""
        shown: dict[str, Any] = {"images": [{"filename": name, "subfolder": "", "type": "output"}], "animated": [True]}
        if codec:
            shown["livetalk_codec"] = [codec]
        about = {"node": str(node), "display_node": str(node), "prompt_id": "p"}
        self.push({"type": "executed", "data": about | {"output": shown}})
        self.push({"type": "execution_success", "data": {"prompt_id": "p", "timestamp": 1}})

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        status = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "stub"}
        await socket.send_json({"type": "status", "data": status})
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        self.sockets.remove(socket)
        return socket

    async def _api(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"].strip("/")
        if name == "object_info":
            return web.json_response(self.object_info)
        if name == "system_stats":
            return web.json_response({"system": {"argv": ["main.py", "--disable-api-nodes"]}, "devices": []})
        if name == "view":
            file = self.files / Path(request.query["filename"]).name
            return web.FileResponse(file) if file.is_file() else web.Response(status=404)
        found = next((key for key in self.answers if name == key or name.startswith(f"{key}/")), None)
        if request.method == "GET" and name in self.answers:
            return web.json_response(self.answers[name])
        return web.json_response({}) if found and request.method != "GET" else web.Response(status=404)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        folder, name = self.static, request.path.lstrip("/") or "index.html"
        if request.path.startswith(EXTENSION):
            folder, name = WEB, request.path.removeprefix(EXTENSION)
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        return web.FileResponse(path) if inside else web.Response(status=404)

    def serve(self, started: Event) -> None:
        """Run until `loop` is stopped."""
        self.loop = asyncio.new_event_loop()
        app = web.Application()
        app.router.add_get("/ws", self._websocket)
        app.router.add_route("*", "/api/{name:.*}", self._api)
        app.router.add_get("/{path:.*}", self._file)
        runner = web.AppRunner(app)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(runner.cleanup())


def place_examples(folder: Path) -> None:
    """The pack's portrait and speech under the names that a server with the pack has them by."""
    for name in ("portrait.png", "speech.wav"):
        (folder / f"livetalk_{name}").symlink_to(DEMO / name)


@contextmanager
def running(static: Path, object_info_file: Path, settings: dict[str, Any], files: Path) -> Iterator[Stub]:
    """A stub in a thread; `files` are what it shows as uploaded or made."""
    stub = Stub(static, json.loads(object_info_file.read_text(encoding="utf-8")), settings, files)
    started = Event()
    thread = Thread(target=stub.serve, args=(started,), daemon=True)
    thread.start()
    assert started.wait(30), "the stub server did not start"
    try:
        yield stub
    finally:
        stub.loop.call_soon_threadsafe(stub.loop.stop)
        thread.join(10)
