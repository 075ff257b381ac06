"""A real ComfyUI on the CPU with this pack in it, spoken to over HTTP and a websocket. Standard library only."""

import base64
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600
"""A loaded machine takes minutes over what else takes seconds."""
FRAMES = 153
"""Of the demo's speech at 25 per second, rounded up."""
PREVIEW_IMAGE = 1
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


class Events:
    """A websocket client that only listens: JSON messages as dicts, binary ones as bytes."""

    def __init__(self, port: int, client: str, timeout: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.socket.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline() != b"\r\n":
            pass

    def __iter__(self) -> Iterator[dict[str, Any] | bytes]:
        data, kind = b"", TEXT
        while True:
            first, second = self.stream.read(2)
            length = second & 127
            if length > 125:
                size = 2 if length == 126 else 8
                length = int.from_bytes(self.stream.read(size), "big")
            payload, opcode = self.stream.read(length), first & 15
            if opcode == CLOSE:
                return
            if opcode == PING:
                continue
            data, kind = data + payload, opcode or kind
            if first & 128:
                yield json.loads(data) if kind == TEXT else data
                data = b""

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Outcome:
    """What a prompt did: nodes begun, progress per node, previews, messages on nodes, output files, and its error."""

    def __init__(self) -> None:
        self.progress: list[tuple[str, int, int]] = []
        self.previews: list[bytes] = []
        self.outputs: dict[str, dict[str, Any]] = {}
        self.texts: list[str] = []
        self.begun: list[str] = []
        self.error: dict[str, Any] | None = None
        self.interrupted = False

    @property
    def job(self) -> dict[str, Any] | None:
        """Where a LiveTalk job stands after this prompt."""
        found = (output["livetalk_job"][0] for output in self.outputs.values() if "livetalk_job" in (output or {}))
        return next(found, None)

    @property
    def next_prompt_id(self) -> str | None:
        """The prompt that makes the job's next chunk."""
        return self.job["next_prompt_id"] if self.job else None

    def take(self, event: dict[str, Any] | bytes, prompt_id: str) -> bool:
        """Note an event; True once the prompt has ended."""
        if isinstance(event, bytes):
            self._take_binary(event)
            return False
        kind, data = event["type"], event.get("data", {})
        if data.get("prompt_id") != prompt_id:
            return False
        if kind == "progress":
            self.progress.append((data["node"], data["value"], data["max"]))
        elif kind == "executing" and data["node"]:
            self.begun.append(data["node"])
        elif kind == "executed":
            self.outputs[data["node"]] = data["output"]
        elif kind == "execution_error":
            self.error = data
        elif kind == "execution_interrupted":
            self.interrupted = True
        return kind in ("execution_success", "execution_error", "execution_interrupted")

    def _take_binary(self, event: bytes) -> None:
        kind = struct.unpack(">I", event[:4])[0]
        if kind == PREVIEW_IMAGE:
            self.previews.append(event[8:])
        elif kind == 3:
            self.texts.append(event[8 + struct.unpack(">I", event[4:8])[0] :].decode())


def listen(events: Iterator[Any], prompt_id: str, on_event: Callable[[Outcome], None]) -> Outcome:
    """What a prompt does until it ends."""
    outcome = Outcome()
    for event in events:
        if outcome.take(event, prompt_id):
            return outcome
        on_event(outcome)
    raise AssertionError("ComfyUI hung up before the prompt ended")


def prepare(comfyui: Path, base: Path, models: bool = True) -> None:
    """Fill a server's folder: this pack, which brings a portrait and a speech; with small `models`, their stand-ins."""
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "livetalk").symlink_to(ROOT)
    (base / "input").mkdir()
    if not models:
        return
    (base / "custom_nodes" / "stand_ins.py").symlink_to(ROOT / "tests" / "nodes" / "stand_ins.py")
    command = [PYTHON, str(ROOT / "tests" / "nodes" / "small_files.py"), str(comfyui), str(base / "models")]
    subprocess.run(command, check=True, capture_output=True, cwd=base, timeout=START_SECONDS)


class ComfyServer:
    """One running ComfyUI; `base`, made by `prepare`, holds its models, input and output folders."""

    def __init__(self, comfyui: Path, base: Path, *options: str) -> None:
        self.base, self.log = base, base / "comfyui.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [
            PYTHON, str(comfyui / "main.py"), "--cpu",
            "--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes",
            "--port", str(self.port), *options,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=base, stdout=log, stderr=subprocess.STDOUT)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("system_stats")
                return
            except OSError:
                time.sleep(0.3)
        self.close()
        raise AssertionError(f"ComfyUI did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def get(self, route: str) -> Any:
        """GET, parsed."""
        return json.loads(self.read(route))

    def read(self, route: str) -> bytes:
        """GET, as it comes."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{route}", timeout=30) as answer:
            return answer.read()

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST, parsed; a refusal's body comes back like any other."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return json.load(error)

    def run(
        self,
        prompt: dict[str, Any],
        on_event: Callable[[Outcome], None] = lambda _: None,
        timeout: float = 300,
        workflow: dict[str, Any] | None = None,
    ) -> Outcome:
        """Queue a prompt in API format and listen until it ends."""
        return next(self.follow(prompt, on_event, timeout, workflow))

    def follow(
        self,
        prompt: dict[str, Any],
        on_event: Callable[[Outcome], None] = lambda _: None,
        timeout: float = 600,
        workflow: dict[str, Any] | None = None,
    ) -> Iterator[Outcome]:
        """Queue a prompt; yields its outcome, then those of the prompts that a LiveTalk job queues after it."""
        client = secrets.token_hex(8)
        events = Events(self.port, client, timeout)
        try:
            extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
            answer = self.post("prompt", {"prompt": prompt, "client_id": client, "extra_data": extra})
            assert "prompt_id" in answer, json.dumps(answer, indent=1)
            prompt_id: str | None = answer["prompt_id"]
            stream = iter(events)
            while prompt_id:
                outcome = listen(stream, prompt_id, on_event)
                yield outcome
                prompt_id = outcome.next_prompt_id
        finally:
            events.close()

    def wait_for(self, condition: Callable[[], bool], timeout: float = 300) -> None:
        """Return once `condition()` holds; fails where it does not in time, or the server ends."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline and self.process.poll() is None, "waited in vain"
            time.sleep(0.02)

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self.post("interrupt", {})

    def output(self, file: dict[str, str]) -> Path:
        """Path of a file named in a node's output."""
        return self.base / file["type"] / file["subfolder"] / file["filename"]

    def close(self) -> None:
        """Stop the server."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
