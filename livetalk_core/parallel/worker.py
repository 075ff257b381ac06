"""A worker process: connects to its controller, forms a process group with the other workers, and runs jobs.

It ends with its controller: when the connection closes, when its standard input closes (a worker that was started by
the controller is given its secret there), or, on Linux, by the kernel's hand.

What it computes is a runner's business: an object with one method per verb, made when the fleet is set up. A verb is
given a `Job`; it reports what it has, piece by piece, and every report is where a job can be cancelled, on all ranks
at once.
"""

import ctypes
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import __version__
from ..config import SECRET_VARIABLE
from ..errors import Cancelled, InputError, LiveTalkError, WorkerError
from ..files import read_secret_file
from ..hardware.machine import available_memory, choose_device, ran_out_of_memory
from . import collectives
from .devices import address, shown_address
from .meeting import join
from .mesh import end_groups, exchanges
from .protocol import DISCONNECTED, Connection, Disconnected, Message, Silent, introduce
from .release import CODE, PACK

HEARTBEAT_SECONDS = 1
UNANSWERED_SECONDS = 15
"""After so long without an acknowledgement the controller's host is gone. One that is stopped does acknowledge."""
CONNECT_SECONDS = 300
"""How long a worker looks for its controller."""
NETWORKS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What tells torch.distributed by which network to reach other hosts."""
PR_SET_PDEATHSIG = 1
SECRET_BYTES, MOST_SECRET = 16, 4096
"""The shortest secret that is taken, and the longest."""

Runner = Any
"""Has a method per verb: `runner.denoise(job)`."""
Runners = Mapping[str, Callable[["Job"], Runner]]
"""Makes a runner by its name, from the setup's fields and tensors."""


@dataclass(frozen=True)
class Place:
    """Where a worker stands among the others, and where it connects to, by TLS if `secure`.

    Without a rank it is given one when the workers are set up.
    """

    controller: tuple[str, int]
    secret: bytes
    rank: int | None
    ranks: int | None
    device: torch.device
    secure: bool = True


class Job:
    """One call of a verb: what it was given, and its way to answer."""

    def __init__(self, worker: "Worker", message: Message) -> None:
        self.fields, self.tensors, self.device = message.fields, message.tensors, worker.place.device
        self._worker, self._number = worker, message.job

    @property
    def is_heard(self) -> bool:
        """Whether this rank's reports are sent: others need not make what only these hold."""
        return self._worker.rank == 0

    def expect(self, work: str, operations: float) -> None:
        """Say how many operations of a kind of work there are from one report to the next, on all ranks together.

        They may be of any unit that is the same for all work of the kind.
        """
        if self.is_heard:
            self._worker.connection.send(Message("expects", self._number, {"work": work, "operations": operations}))

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Within it this rank only looks for the others: the controller says what may be wrong where that lasts."""
        self._meets(True)
        yield
        self._meets(False)

    def _meets(self, begins: bool) -> None:
        self._worker.connection.send(Message("meets", self._number, {"begins": begins}))

    def report(self, fields: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Give the controller something (rank 0's is sent); raises `Cancelled` on all ranks when the user stops.

        All ranks must report alike. On a GPU this waits for the work so far: else the host, which only queues it, would
        report, and look for a cancel, long before.
        """
        collectives.finish(self.device)
        if self.is_heard:
            self._worker.connection.send(Message("item", self._number, fields or {}, tensors or {}))
        if self._worker.is_cancelled(self._number):
            raise Cancelled


class Worker:
    """The process's state: its connection, and the runner once there is one."""

    def __init__(self, place: Place, connection: Connection, runners: Runners) -> None:
        self.place, self.connection, self._runners = place, connection, runners
        self.rank = place.rank
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled = -1
        self._runner: Runner = None
        self._main, self._ended = threading.get_ident(), threading.Event()

    def serve(self) -> int:
        """Run jobs until the controller says goodbye; the exit code. Raises `WorkerError` where it is not wanted."""
        self.connection.send(Message("hello", fields=self._describe()))  # before any sign of life
        threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._beat)]
        for thread in threads:
            thread.start()
        while (message := self._inbox.get()).kind != "goodbye":
            self.connection.send(self._answer(message))
        if fault := message.fields.get("fault"):
            raise WorkerError(f"the controller has refused this worker, which {fault}")
        self._ended.set()
        for thread in threads:
            thread.join()
        end_groups()
        self.connection.close()
        return 0

    def is_cancelled(self, job: int) -> bool:
        """Whether the user has stopped `job`; all ranks ask together and are told the same."""
        return bool(collectives.greatest(torch.tensor(float(self._cancelled >= job))))

    def _answer(self, message: Message) -> Message:
        try:
            if message.kind == "setup":
                self._set_up(message)
            else:
                getattr(self._runner, message.fields["verb"])(Job(self, message))
        except Cancelled:
            return Message("stopped", message.job)
        except Exception as error:
            return Message("failed", message.job, _describe_error(error))
        return Message("done", message.job)

    def _set_up(self, message: Message) -> None:
        place, port, crew = self.place, message.fields["meeting port"], message.fields["crew"]
        if self.rank is None:
            self.rank = crew.index([socket.gethostname(), os.getpid()])
        if message.fields["one host"]:
            keep_to_this_host()
        job = Job(self, message)
        with job.meeting():
            join(place.controller[0], port, self.rank, len(crew), place.device)
        self._runner = self._runners[message.fields["runner"]](job)

    def _describe(self) -> dict[str, Any]:
        place = self.place
        return {
            "rank": place.rank,
            "ranks": place.ranks,
            "device": str(place.device),
            "memory": available_memory(place.device),
            "host": socket.gethostname(),
            "networks": {name: os.environ[name] for name in NETWORKS if name in os.environ},
            "process": os.getpid(),
            "release": __version__,
            "code": CODE,
            "torch": torch.__version__,
        }

    def _listen(self) -> None:
        """Receive, so that a cancel is seen while the main thread computes; ends the process with the connection."""
        try:
            while True:
                message = self.connection.receive()
                if message.kind == "cancel":
                    self._cancelled = message.job
                else:
                    self._inbox.put(message)
                if message.kind == "goodbye":
                    return
        except Disconnected:
            os._exit(DISCONNECTED)  # the main thread may wait in a collective for ever
        except WorkerError as error:
            logging.error("%s", error)
            os._exit(1)

    def _beat(self) -> None:
        """Say again and again that this process lives, and where it is; end it when the controller's host is gone."""
        unanswered = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                unanswered = unanswered + 1 if self.connection.is_unanswered(UNANSWERED_SECONDS) else 0
                if unanswered > 1:  # not just sent, after a long stop of this process
                    os._exit(DISCONNECTED)
                place = whereabouts(sys._current_frames().get(self._main))
                self.connection.send(Message("alive", fields={**place, "exchanges": exchanges()}))
            except (WorkerError, OSError):
                return


def whereabouts(frame: FrameType | None) -> dict[str, Any]:
    """Where a thread is: the innermost place in this pack, and whether it waits there for other ranks."""
    files = []
    while frame is not None:
        files.append((Path(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    own = [(file, line, name) for file, line, name in files if PACK in file.parents]
    file, line, name = own[0] if own else files[-1] if files else (PACK, 0, "")
    waits = any(file == Path(collectives.__file__) for file, _, _ in own)
    return {"at": f"{name} ({file.name}:{line})", "waits": waits}


def _describe_error(error: Exception) -> dict[str, Any]:
    if not isinstance(error, LiveTalkError):  # which the controller says, in one line
        traceback.print_exc()
    out_of_memory = ran_out_of_memory(error) or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    return {
        "error": type(error).__name__,
        "text": str(error),
        "expected": isinstance(error, LiveTalkError),
        "out of memory": out_of_memory,
        "secondary": isinstance(error, dist.DistError) or "gloo" in str(error).lower(),
    }


def place_of(
    connect: str,
    secret_file: str | None = None,
    device: str | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    threads: int | None = None,
    plain: bool = False,
) -> Place:
    """A worker's place from its options; what is not given comes from torchrun's environment."""
    if threads:
        torch.set_num_threads(threads)
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    controller, number = address(connect), _number_of(rank, ranks)
    if not controller[1]:
        raise InputError(f"--connect {connect}; the port is needed at which the controller listens, such as 29700")
    return Place(controller, read_secret(secret_file), *number, choose_device(device), not plain)


def _number_of(rank: int | None, ranks: int | None) -> tuple[int | None, int | None]:
    """A worker's number and how many there are, by its options or else by torchrun's environment; None by neither."""
    given = "--rank", "--ranks"
    if rank is None and ranks is None:
        given = "RANK", "WORLD_SIZE"
        told = [os.environ.get(name, "") for name in given]
        if not any(told):
            return None, None
        rank, ranks = (int(text) if re.fullmatch("[0-9]{1,9}", text) else None for text in told)
    if rank is None or ranks is None or not 0 <= rank < ranks:
        raise InputError(
            f"{given[0]} {rank} of {given[1]} {ranks}; a number from 0 on is needed and how many workers there are, "
            "such as 1 of 4; without both the controller numbers them"
        )
    return rank, ranks


def read_secret(file: str | None) -> bytes:
    """A fleet's secret: from a file, from standard input (`-`), or from the environment."""
    if file == "-":
        return end_with_parent()
    from_environment = os.fsencode(os.environ.get(SECRET_VARIABLE, "")).strip()
    secret = read_secret_file(Path(file), InputError) if file else from_environment
    if len(secret) < SECRET_BYTES:
        raise InputError(
            f"a secret of {len(secret)} bytes; needs at least {SECRET_BYTES}, from --secret-file or {SECRET_VARIABLE}"
        )
    return secret


def connect(address: tuple[str, int], secret: bytes, secure: bool) -> Connection:
    """Look for the controller until it listens, and talks: one that is stopped meanwhile does so when it goes on.

    Raises `WorkerError` where none does, and `InputError` for a name that no host has.
    """
    until, name = time.monotonic() + CONNECT_SECONDS, shown_address(*address)
    while True:
        try:
            connected = socket.create_connection(address)
            try:
                return introduce(connected, secret, secure)
            except BaseException:
                connected.close()
                raise
        except (OSError, Silent) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
                raise InputError(
                    f"no host is called {address[0]} ({error.strerror}); --connect needs the name or address of the "
                    "host that renders"
                ) from None
            if time.monotonic() > until:
                raise WorkerError(f"no controller at {name} ({error}); start it there with --listen") from None
            time.sleep(0.5)


def end_with_parent() -> bytes:
    """Read the secret from standard input, and end this process when that closes; on Linux the kernel does, too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    source = sys.stdin.fileno()
    secret = os.read(source, MOST_SECRET).strip()

    def watch() -> None:
        os.read(source, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return secret


def serve(place: Place, runners: Runners, again: bool = False) -> int:
    """Be a worker until the controller ends it; the exit code. Then look for the next one if `again`.

    Only the end that a controller wishes for has a next one: after any other, what is left may wait for other ranks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the controller decides
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    while True:
        worker = Worker(place, connect(place.controller, place.secret, place.secure), runners)
        try:
            code = worker.serve()
        except Disconnected:  # found by the main thread before the one that listens
            return DISCONNECTED
        if code or not again:
            return code


def keep_to_this_host() -> None:
    """Let the workers talk to each other over the loopback interface only."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is None:
        raise InputError("this machine has no loopback interface; workers on one host need it: enable it")
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=f"={loopback}")
