"""What a controller and its workers say to each other: JSON and safetensors over one socket per worker, no pickle.

A connection begins with a handshake: both sides name the version of this protocol and prove, by a keyed hash of both
sides' random numbers, that they know the fleet's secret, which itself is never sent. Nothing else is read before.
Between hosts all of it is under TLS, whose certificate the proofs cover (`secure.py`).
Then come messages, each a JSON header and a safetensors body, both with their length in front.
"""

import hmac
import json
import secrets
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import WorkerError
from .secure import SecureSocket, Tls, worker_context

VERSION = 2
HANDSHAKE_SECONDS = 10
TCP_INFO, UNANSWERED, LAST_ANSWER = 11, 24, 56
"""Linux's `struct tcp_info`; where it has the packets not acknowledged, and the milliseconds since the last one was."""
NONCE_BYTES = PROOF_BYTES = 32
MOST_HEADER, MOST_BODY = 2**24, 2**36
"""Bytes beyond which a length is not believed."""
DISCONNECTED = 71
"""A worker's exit code when it has lost its controller."""
STRANGER = "the sender is no LiveTalk of this version: use the same on all machines"
REFUSES = "has another secret, or is one between us and it; give this worker the secret of its fleet"
_OPENING = struct.Struct(">8sH")
_LENGTHS = struct.Struct(">IQ")
_NAME = b"LiveTalk"


class Message(NamedTuple):
    """`kind` says what it is, `job` which job it belongs to; `fields` are JSON values, `tensors` come on the CPU."""

    kind: str
    job: int = 0
    fields: Mapping[str, Any] = {}
    tensors: Mapping[str, Tensor] = {}


class Disconnected(WorkerError):
    """The other side has closed the connection, or is gone."""


class Silent(Disconnected):
    """The other side says nothing, as a process that is stopped; its connection stands."""


def pack(message: Message) -> bytes:
    """A message as bytes."""
    header = {"version": VERSION, "kind": message.kind, "job": message.job, "fields": message.fields}
    text = json.dumps(header).encode()
    # Copies, because safetensors refuses tensors that share memory, as a view and its base do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in message.tensors.items()}
    body = save(tensors) if tensors else b""
    return _LENGTHS.pack(len(text), len(body)) + text + body


def unpack(header: bytes, body: bytes) -> Message:
    """The message of a header and a body; raises `WorkerError` for anything else."""
    try:
        content = json.loads(header)
        version = content["version"]
        if version != VERSION:
            raise WorkerError(_other_version("the message", version))
        return Message(content["kind"], content["job"], content["fields"], load(body) if body else {})
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WorkerError(
            f"a message that cannot be read ({error!r}); the sender is no LiveTalk of this version"
        ) from None


def _other_version(what: str, version: Any) -> str:
    return f"{what} has protocol version {version}; this one needs {VERSION}: use the same LiveTalk on all machines"


class Connection:
    """One socket after its handshake. Any thread may send; one receives."""

    def __init__(self, connected: socket.socket | SecureSocket) -> None:
        self._socket, self._sending = connected, threading.Lock()
        self.sent = self.received = 0
        """Bytes of messages."""
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, message: Message) -> None:
        """Send a message; raises `Disconnected`."""
        self.send_packed(pack(message))

    def send_packed(self, data: bytes) -> None:
        """Send what `pack` made."""
        try:
            with self._sending:
                self._socket.sendall(data)
                self.sent += len(data)
        except OSError as error:
            raise Disconnected(f"the connection is lost ({error})") from None

    def receive(self, heard: Callable[[], None] = lambda: None) -> Message:
        """Wait for the next message; `heard` is called for every piece. Raises `Disconnected` without a sender."""
        header, body = _LENGTHS.unpack(_read(self._socket, _LENGTHS.size, heard))
        if header > MOST_HEADER or body > MOST_BODY:
            raise WorkerError(f"a message of {header + body} bytes; {STRANGER}")
        self.received += _LENGTHS.size + header + body
        return unpack(_read(self._socket, header, heard), _read(self._socket, body, heard))

    def is_unanswered(self, seconds: float) -> bool:
        """Whether the other side's host has not answered for so long to what was sent; its process may sleep."""
        if sys.platform != "linux":
            return False
        info = self._socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 64)
        unanswered, since = (struct.unpack_from("I", info, place)[0] for place in (UNANSWERED, LAST_ANSWER))
        return bool(unanswered) and since > 1000 * seconds

    def close(self) -> None:
        """Close; a thread that waits in `receive` is woken by `Disconnected`."""
        with suppress(OSError):  # the other side closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _read(connected: socket.socket | SecureSocket, count: int, heard: Callable[[], None] = lambda: None) -> bytes:
    data = bytearray(count)
    view, done = memoryview(data), 0
    try:
        while done < count:
            received = connected.recv_into(view[done:])
            if not received:
                raise Disconnected("the other side has closed the connection")
            done += received
            heard()
    except TimeoutError:
        raise Silent("the other side says nothing") from None
    except OSError as error:
        raise Disconnected(f"the connection is lost ({error})") from None
    return bytes(data)


def welcome(connected: socket.socket, secret: bytes, tls: Tls | None = None) -> Connection:
    """The controller's side of the handshake, under TLS where it is given; raises `WorkerError` for a stranger."""
    connected.settimeout(HANDSHAKE_SECONDS)
    talk = connected if tls is None else _secured(connected, tls.context, "the worker", is_listener=True)
    bound = b"" if tls is None else tls.fingerprint
    own, theirs = _open(talk, "the worker")
    if not hmac.compare_digest(_read(talk, PROOF_BYTES), _proof(secret, b"worker", own, theirs, bound)):
        raise WorkerError("a worker with another secret, or one between us and it; give it this fleet's")
    talk.sendall(_proof(secret, b"controller", own, theirs, bound))
    return Connection(talk)


def introduce(connected: socket.socket, secret: bytes, secure: bool = False) -> Connection:
    """The worker's side of the handshake, under TLS if `secure`; a `WorkerError` where the controller is not ours.

    `Silent` where it says nothing for `HANDSHAKE_SECONDS`.
    """
    connected.settimeout(HANDSHAKE_SECONDS)
    talk = _secured(connected, worker_context(), "the controller", is_listener=False) if secure else connected
    bound = talk.certificate() if isinstance(talk, SecureSocket) else b""
    own, theirs = _open(talk, "the controller")
    talk.sendall(_proof(secret, b"worker", theirs, own, bound))
    try:
        proof = _read(talk, PROOF_BYTES)
    except Silent:
        raise Silent(f"the controller is stopped, {REFUSES}") from None
    except Disconnected:
        proof = b""
    if not hmac.compare_digest(proof, _proof(secret, b"controller", theirs, own, bound)):
        raise WorkerError(f"the controller {REFUSES}")
    return Connection(talk)


def _secured(connected: socket.socket, context: ssl.SSLContext, who: str, is_listener: bool) -> SecureSocket:
    try:
        return SecureSocket(connected, context, is_listener)
    except ssl.SSLError as error:
        raise WorkerError(f"{who} speaks no TLS ({error.reason}); {STRANGER}") from None


def _open(connected: socket.socket | SecureSocket, who: str) -> tuple[bytes, bytes]:
    """Exchange names, versions and random numbers: own and theirs."""
    own = secrets.token_bytes(NONCE_BYTES)
    connected.sendall(_OPENING.pack(_NAME, VERSION) + own)
    name, version = _OPENING.unpack(_read(connected, _OPENING.size))
    if name != _NAME:
        raise WorkerError(f"{who} is no LiveTalk; another program uses this address")
    if version != VERSION:
        raise WorkerError(_other_version(who, version))
    return own, _read(connected, NONCE_BYTES)


def _proof(secret: bytes, role: bytes, controller: bytes, worker: bytes, certificate: bytes) -> bytes:
    return hmac.digest(secret, role + controller + worker + certificate, "sha256")
