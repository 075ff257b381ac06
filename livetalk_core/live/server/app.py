"""The live server: a page, a socket for what is said, streams of what is shown, and what is told about it."""

import asyncio
import importlib.util
import io
import json
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from ...errors import InputError, LiveTalkError
from ..mux import FRAGMENTED, Encoded, Target
from ..session import Sink
from .access import Access
from .house import House
from .listening import cannot_listen

PAGE = Path(__file__).with_name("page")
MOST_MESSAGE = 2**20
MOST_UPLOAD = 64 * 2**20
MOST_SOCKETS = MOST_STREAMS = 4
"""Of one caller."""
WAITING_FRAGMENTS = 100
HEARTBEAT_SECONDS = 5.0
STATE_SECONDS = 0.25
HELLO_SECONDS = 10.0
SEND_SECONDS = 5.0
CALLER = re.compile(r"[\w-]{1,64}")
HAS_WEBRTC = importlib.util.find_spec("aiortc") is not None


class LiveServer:
    """Serves a house at `host`:`port` (0: any free one), on a thread of its own: a context. `url` leads to its page."""

    def __init__(self, house: House, access: Access, host: str = "127.0.0.1", port: int = 0) -> None:
        self.house, self.access, self._host, self._port = house, access, host, port
        self._streams: dict[str, list[Sink]] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._started, self._stopping = threading.Event(), asyncio.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="LiveTalk server", daemon=True)

    def __enter__(self) -> "LiveServer":
        self._thread.start()
        self._started.wait()
        if isinstance(self._failure, OSError):
            raise cannot_listen(self._host, self._port, self._failure)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: Any) -> None:
        self.house.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Where the page is."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{name}:{self._port}/"

    def application(self) -> web.Application:
        """All routes."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_UPLOAD)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/page/{file}", self._page),
                web.get("/health", self._health),
                web.get("/events", self._events),
                web.get("/talk", self._talk),
                web.get("/stream.mp4", self._stream),
                web.post("/offer", self._offer),
                web.post("/sound", self._sound),
            ]
        )
        return app

    def _run(self) -> None:
        """The thread; what fails before it listens is for the caller, who waits."""
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.is_set():
                raise
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        runner = web.AppRunner(self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        self.house.start(asyncio.get_running_loop())
        site = web.TCPSite(runner, self._host, self._port)
        await site.start()
        self._port = runner.addresses[0][1]
        self._started.set()
        while not self._stopping.is_set():
            self.house.check_idle()
            await _wait(self._stopping, 1)
        for socket in tuple(self._sockets):
            await socket.close()
        await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Who may not, does not get in; what they cannot have, they are told in JSON."""
        self.access.check(request)
        open_to_all = request.path == "/" or request.path.startswith("/page/") or request.path == "/talk"
        if not open_to_all and not self.access.admits(request):
            raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer TOKEN")
        try:
            return await handler(request)
        except LiveTalkError as error:
            return web.json_response({"type": "error", "message": str(error)}, status=400)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        file = PAGE / request.match_info.get("file", "index.html")
        if file.parent != PAGE or not file.is_file():
            raise web.HTTPNotFound
        headers = {"Content-Security-Policy": "default-src 'self' blob:; img-src 'self' data:; frame-ancestors 'none'"}
        return web.FileResponse(file, headers=headers | {"Cache-Control": "no-cache"})

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"} | self._told())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the state, four times a second."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        while not self._stopping.is_set():
            data = f"event: state\ndata: {json.dumps(self._told())}\n\n"
            await asyncio.wait_for(response.write(data.encode()), SEND_SECONDS)
            await _wait(self._stopping, STATE_SECONDS)
        return response

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        """The socket of a caller: see docs/live.md."""
        caller = self._caller_of(request)
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=MOST_MESSAGE)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            if not self.access.admits(request) and not await self._hello(socket):
                await socket.close(code=4401, message=b"the first message must be a hello with the token")
                return socket
            async with self._messages(socket) as tell:
                await self._converse(caller, socket, tell)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _hello(self, socket: web.WebSocketResponse) -> bool:
        """Whether the first message shows the token."""
        try:
            message = json.loads(await socket.receive_str(timeout=HELLO_SECONDS))
            return message["type"] == "hello" and self.access.knows(message["token"])
        except (asyncio.TimeoutError, TypeError, KeyError, ValueError):
            return False

    async def _converse(self, caller: str, socket: web.WebSocketResponse, tell: Callable) -> None:
        height, width = self.house.cast.shown_size
        tell({"type": "welcome", "width": width, "height": height, "webrtc": HAS_WEBRTC,
              "voice": self.house.voice is not None, "recording": self.house.record is not None,
              "prompts": self.house.cast.encode_prompt is not None})  # fmt: skip
        try:
            place = self.house.enter(caller, tell)
        except InputError as error:
            tell({"type": "busy", "message": str(error)})
            return
        try:
            if place:
                tell({"type": "waiting", "place": place})
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._take(caller, message.data, tell)
        finally:
            self.house.leave(caller, tell)

    def _take(self, caller: str, data: str | bytes, tell: Callable) -> None:
        """One message; what is wrong with it is told, and the next one is welcome."""
        try:
            speaker = self._speaker(caller)
            if isinstance(data, bytes):
                speaker.pcm(data)
                return
            message = json.loads(data)
            if not isinstance(message, dict):
                raise InputError("a message must be a JSON object with a type")
            if message.get("type") == "stop":
                self.house.dismiss(caller)
            elif message.get("type") != "hello":
                speaker.message(message)
        except json.JSONDecodeError as error:
            tell({"type": "error", "message": f"no JSON: {error}"})
        except LiveTalkError as error:
            tell({"type": "error", "message": str(error)})

    @asynccontextmanager
    async def _messages(self, socket: web.WebSocketResponse) -> AsyncIterator[Callable[[dict[str, Any]], None]]:
        """A function that sends to the socket from a line of its own, and the state between; a full line closes it."""
        line: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING_FRAGMENTS)

        def tell(message: dict[str, Any]) -> None:
            if line.full():
                sending.cancel()
            else:
                line.put_nowait(message)

        async def send() -> None:
            try:
                while not socket.closed:
                    try:
                        message = await asyncio.wait_for(line.get(), STATE_SECONDS)
                    except asyncio.TimeoutError:
                        message = {"type": "state"} | self._told()
                    await asyncio.wait_for(socket.send_json(message), SEND_SECONDS)
            except (asyncio.TimeoutError, ConnectionError):
                await socket.close()

        sending = asyncio.create_task(send())
        try:
            yield tell
            while not line.empty() and not sending.done():
                await asyncio.sleep(0.01)
        finally:
            sending.cancel()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Fragmented MP4 from now on, for Media Source Extensions."""
        caller = self._caller_of(request)
        self._speaker(caller)
        response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Cache-Control": "no-store"})
        line = Line()
        sink = Encoded(lambda: Target(line, "mp4", FRAGMENTED), *self.house.cast.shown_size, line.end)
        self._show(caller, sink)
        try:
            await response.prepare(request)
            while (data := await line.next()) is not None:
                await asyncio.wait_for(response.write(data), SEND_SECONDS)
        finally:
            self._unshow(caller, sink)
        return response

    async def _offer(self, request: web.Request) -> web.Response:
        """A WebRTC offer -> the answer."""
        if not HAS_WEBRTC:
            raise InputError('no WebRTC here; `pip install "livetalk[live]"`, or take /stream.mp4')
        from ..webrtc import Call

        caller = self._caller_of(request)
        self._speaker(caller)
        offer = await request.json()
        call = Call(lambda call: self._unshow(caller, call))
        answer = await call.answer(offer)
        self._show(caller, call)
        return web.json_response(answer)

    async def _sound(self, request: web.Request) -> web.Response:
        """A sound file, to be spoken."""
        speaker = self._speaker(self._caller_of(request))
        folder = tempfile.TemporaryDirectory()
        file, size = Path(folder.name, "sound"), 0
        try:
            with file.open("wb") as out:
                async for data in request.content.iter_any():
                    size += out.write(data)
                    if size > MOST_UPLOAD:
                        raise InputError(f"a file of more than {MOST_UPLOAD >> 20} MB; a shorter one is needed")
            speaker.play(file, folder.cleanup)
        except BaseException:
            folder.cleanup()
            raise
        return web.json_response({"type": "accepted", "bytes": size})

    def _told(self) -> dict[str, Any]:
        session = self.house.session
        if session is None:
            return {"state": "free", "streams": 0}
        return session.figures | {"streams": sum(map(len, self._streams.values()))}

    def _caller_of(self, request: web.Request) -> str:
        caller = request.query.get("caller", "")
        if not CALLER.fullmatch(caller):
            raise InputError("a caller is needed: ?caller=NAME, 1 to 64 letters and digits of your choice")
        return caller

    def _speaker(self, caller: str) -> Any:
        if self.house.caller is None or self.house.seats.holder != caller:
            raise InputError("you do not have the seat: open /talk, and wait for 'ready'")
        return self.house.caller

    def _show(self, caller: str, sink: Sink) -> None:
        session, streams = self.house.session, self._streams.setdefault(caller, [])
        if session is None or len(streams) >= MOST_STREAMS:
            sink.close()
            raise InputError(f"{len(streams)} streams of one caller, the most that may be; close one first")
        streams.append(sink)
        session.add_sink(sink)

    def _unshow(self, caller: str, sink: Sink) -> None:
        streams = self._streams.get(caller, [])
        if sink in streams:
            streams.remove(sink)
        if not streams:
            self._streams.pop(caller, None)
        if self.house.session is not None:
            self.house.session.remove_sink(sink)
        sink.close()


class Line(io.RawIOBase):
    """A file that an encoder's thread writes, and an event loop reads piece by piece."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """What is written is gone."""
        return False

    def write(self, data: Any) -> int:
        """Put a piece in line; fails where its reader does not keep up."""
        if self._pieces.qsize() > WAITING_FRAGMENTS:
            raise OSError("the reader does not keep up")
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, bytes(data))
        return len(data)

    def end(self, _: Exception | None) -> None:
        """Nothing more is written."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, None)

    async def next(self) -> bytes | None:
        """The next piece; None at the end."""
        return await self._pieces.get()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, or so long."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
