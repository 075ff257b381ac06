"""A hub on loopback: lists repositories and serves their files, and misbehaves where a test asks it to."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files by repository and name. `breaks` names one that ends after so many bytes each time it is asked for."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.licences: dict[str, str] = {}
        self.breaks: dict[str, int] = {}
        self.changed: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def listing(self, repository: str) -> dict[str, Any]:
        """What the hub says of a repository: large files with SHA-256, small ones as git knows them."""
        siblings = []
        for name, content in self.files[repository].items():
            size = self.sizes.get(name, len(content))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob_id(content)}
            if not name.endswith(".json"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
            siblings.append(entry)
        card = {"license": self.licences[repository]} if repository in self.licences else {}
        return {"id": repository, "sha": COMMIT, "cardData": card, "siblings": siblings, "tags": []}


def blob_id(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/"):
                repository = "/".join(path.split("/")[3:5])
                known = repository in hub.files
                return self.answer(200 if known else 404, json.dumps(hub.listing(repository) if known else {}).encode())
            repository, _, name = path[1:].partition(f"/resolve/{COMMIT}/")
            if not name:  # the library asks for more than files
                return self.answer(404, b"{}")
            hub.asked.append((name, self.headers.get("Range")))
            return self.give(name, hub.changed.get(name, hub.files[repository][name]))

        def give(self, name: str, content: bytes) -> None:
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            rest = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: hub.breaks.get(name, len(rest))])
            if name in hub.breaks:
                self.close_connection = True

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
