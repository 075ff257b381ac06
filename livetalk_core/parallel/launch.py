"""From nothing to connected workers: those of this machine are started, those of other hosts are waited for."""

import errno
import logging
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import psutil
import torch
import torch.distributed as dist

from .. import __version__
from ..errors import InputError, WorkerError
from ..hardware.machine import ROOT
from .devices import MOST_PORT, shown_address
from .meeting import Meeting, open_port
from .protocol import DISCONNECTED, Message
from .reception import POLL_SECONDS, Member, Reception
from .release import CODE
from .secure import listener_tls

LOOPBACK = "127.0.0.1"
PROGRAM = (sys.executable, "-m", "livetalk_core", "worker")
EXIT_SECONDS = 3
"""How long a worker may take to end by itself."""
STOPPED_SECONDS = 10
"""After so long a process that has been stopped is not waited for any more."""
UNEQUAL = 0.8
"""A device with less than this share of the largest one's free memory is worth a word."""


class LocalWorkers:
    """Worker processes of this machine, one a device; `close` ends them."""

    def __init__(self, devices: Sequence[str], program: Sequence[str] = PROGRAM) -> None:
        self.devices, self.ranks = devices, len(devices)
        self.secret = secrets.token_hex(32).encode()
        self.tls = None  # nothing leaves this host
        self._program, self._processes = program, list[subprocess.Popen[bytes]]()
        self._meeting: Meeting | None = None
        self._ended = threading.Event()

    @contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """Open a port of the loopback interface, and start the processes that connect to it."""
        with socket.create_server((LOOPBACK, 0)) as server:
            self._start(server.getsockname()[1])
            yield server

    def meet(self) -> dict[str, Any]:
        """Open what these workers find each other by; the set-up's fields that say so."""
        self._meeting = Meeting(LOOPBACK)
        return {"meeting port": self._meeting.port, "one host": True}

    def fate(self, rank: int) -> str | None:
        """What became of a process that has ended; None while it runs."""
        code = self._processes[rank].poll()
        if code is None:
            return None
        if code == DISCONNECTED:
            return "lost its connection"
        if code >= 0:
            return f"ended with exit code {code}; its own message is in the log"
        hint = "; the system kills the largest process when memory runs out" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def is_stopped(self, rank: int) -> bool:
        """Whether a process lives and has been stopped."""
        with suppress(psutil.Error, OSError):  # it has ended, or no file can be opened now
            return psutil.Process(self._processes[rank].pid).status() == psutil.STATUS_STOPPED
        return False

    def wait(self, rank: int) -> None:
        """Wait a moment for the end of a process whose connection has closed."""
        with suppress(subprocess.TimeoutExpired):  # it lives, and is killed in `close`
            self._processes[rank].wait(EXIT_SECONDS)

    def close(self) -> None:
        """End what still runs. Returns when no process is left."""
        for rank, process in enumerate(self._processes):
            assert process.stdin
            process.stdin.close()
            if self.is_stopped(rank):
                process.kill()  # it would not notice
        until = time.monotonic() + EXIT_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ended.set()
        if self._meeting is not None:
            self._meeting.close()

    def _start(self, port: int) -> None:
        """Start the processes from a thread that lives as long as they: Linux ends them with the one that did."""
        started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def start_and_stay() -> None:
            try:
                for rank in range(self.ranks):
                    self._processes.append(self._process(rank, port))
                started.put(None)
            except BaseException as error:  # whatever it is, it is awaited
                started.put(error)
            self._ended.wait()

        threading.Thread(target=start_and_stay, name="LiveTalk workers", daemon=True).start()
        if (error := started.get()) is not None:
            raise error

    def _arguments(self, rank: int, port: int) -> list[str]:
        """The options of a rank's process."""
        threads = max(1, torch.get_num_threads() // self.ranks)
        options = {
            "connect": f"{LOOPBACK}:{port}", "rank": rank, "ranks": self.ranks, "device": self.devices[rank],
            "threads": threads, "secret-file": "-",
        }  # fmt: skip
        return [*(str(word) for name, value in options.items() for word in (f"--{name}", value)), "--plain"]

    def _process(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        command = [*self._program, *self._arguments(rank, port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)
        assert process.stdin
        process.stdin.write(self.secret + b"\n")
        process.stdin.flush()
        return process


class RemoteWorkers:
    """Workers that torchrun starts, here or on other hosts; they connect to an address that is listened at."""

    def __init__(self, address: tuple[str, int], ranks: int, secret: bytes) -> None:
        self.ranks, self.secret, self._address, self.tls = ranks, secret, address, listener_tls()
        self._meeting: Meeting | None = None

    @contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """Open the port for as long as workers are waited for."""
        name = shown_address(*self._address)
        try:
            server = open_port(*self._address)
        except OSError as error:
            raise InputError(f"cannot listen at {name}: {error.strerror}; choose another address or port") from None
        with server:
            logging.info("waiting for %d workers at %s", self.ranks, name)
            yield server

    def meet(self) -> dict[str, Any]:
        """See `LocalWorkers.meet`: at the port behind the one that is listened at, for the sake of firewalls."""
        host, port = self._address
        self._meeting = Meeting(host, port + 1 if port < MOST_PORT else 0)
        return {"meeting port": self._meeting.port, "one host": False}

    def fate(self, rank: int) -> str | None:
        """Not known from here."""
        return None

    def is_stopped(self, rank: int) -> bool:
        """Nor that."""
        return False

    def wait(self, rank: int) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """They end with their connection."""
        if self._meeting is not None:
            self._meeting.close()


Source = LocalWorkers | RemoteWorkers


@contextmanager
def starting() -> Iterator[None]:
    """What the system refuses while workers are started (a port, a file, a process) as a `WorkerError`."""
    try:
        yield
    except (OSError, dist.DistError) as error:
        full = isinstance(error, OSError) and error.errno == errno.EMFILE
        advice = ": close some, or raise the limit (ulimit -n)" * full
        raise WorkerError(f"cannot start workers: {error}{advice}") from None


def gather_members(source: Source, seconds: float, poll: Callable[[], None]) -> list[Member]:
    """The connected workers in the order of their ranks. `poll` is called again and again; it may raise to stop.

    Raises `WorkerError` where one ends or has not come within `seconds`, or does not fit to this process or the others.
    """
    members: dict[int, Member] = {}
    unnumbered: dict[Any, Member] = {}
    stops = Counter[int]()
    try:
        with source.listen() as server, Reception(server, source.secret, source.tls) as reception:
            until = time.monotonic() + seconds
            while len(members) + len(unnumbered) < source.ranks:
                poll()
                _check_start(source, members, stops, until, seconds)
                member = reception.next()
                if member is not None:
                    _check_member(member, source.ranks)
                    known, key = (unnumbered, _seat(member)) if member.rank < 0 else (members, member.rank)
                    _replace(known.get(key), member)
                    known[key] = member
        _number(members, unnumbered, source.ranks)
        _check_kinds([members[rank] for rank in range(source.ranks)])
    except BaseException:
        for member in (*members.values(), *unnumbered.values()):
            member.connection.close()
        raise
    _warn_of_unequal_memory(members.values())
    return [members[rank] for rank in range(source.ranks)]


def _check_start(source: Source, members: dict[int, Member], stops: Counter[int], until: float, seconds: float) -> None:
    """Raise `WorkerError` where a worker will not come. `stops` counts, for each, the looks at which it was stopped.

    Looks, not seconds: this process may have been stopped, too.
    """
    for rank in range(source.ranks):
        when = "while others were awaited" if rank in members else "before it connected"
        if fate := source.fate(rank):
            raise WorkerError(f"worker {rank} {fate}, {when}")
        stops[rank] = stops[rank] + 1 if source.is_stopped(rank) else 0
        if stops[rank] * POLL_SECONDS > STOPPED_SECONDS:
            raise WorkerError(f"worker {rank} has been stopped for {STOPPED_SECONDS} s, {when}")
    missing = [rank for rank in range(source.ranks) if rank not in members]
    if time.monotonic() > until:
        names = ", ".join(str(rank) for rank in missing)
        raise WorkerError(f"{len(missing)} of {source.ranks} workers ({names}) have not connected in {seconds:.0f} s")


def _seat(member: Member) -> Any:
    """What two workers cannot share: a GPU; on a CPU, nothing."""
    about = member.about
    return about["host"], about["device"], about["process"] if about["device"] == "cpu" else 0


def _number(members: dict[int, Member], unnumbered: dict[Any, Member], ranks: int) -> None:
    """Give the free ranks to those that have none, host by host, so that neighbours are on one host."""
    free = (rank for rank in range(ranks) if rank not in members)
    for _, member in sorted(unnumbered.items()):
        member.about["rank"] = next(free)
        members[member.rank] = member
    unnumbered.clear()


def _replace(before: Member | None, member: Member) -> None:
    """A worker that was started anew takes the place of itself: what is left of the one before is ended."""
    if before is not None:
        logging.warning("%s takes the place of %s; if both were started, give each its own number", member, before)
        before.connection.close()


def _check_member(member: Member, ranks: int) -> None:
    about = member.about
    releases = (about["release"], about["torch"]), (__version__, torch.__version__)
    fault = ""
    if releases[0] != releases[1]:
        theirs, ours = (f"LiveTalk {release} with torch {version}" for release, version in releases)
        fault = f"runs {theirs}; {ours} is needed: install the same on all hosts"
    elif about.get("code") != CODE:
        fault = (
            f"runs another LiveTalk {__version__} than this process: install the same on all hosts, and start this "
            "program again if it was updated while it ran"
        )
    elif about["rank"] is not None and (about["ranks"] != ranks or not 0 <= about["rank"] < ranks):
        fault = f"is one of {about['ranks']} workers; {ranks} are needed: start as many as the controller waits for"
    if fault:
        _refuse(member, fault)


def _check_kinds(members: Sequence[Member]) -> None:
    """Raise `WorkerError` for GPUs beside CPUs: those talk by NCCL, these cannot."""
    kinds = [member.about["device"].partition(":")[0] for member in members]
    for member, kind in zip(members, kinds, strict=True):
        if kind != kinds[0]:
            advice = "workers are all GPUs or all CPUs: name each host's --device"
            _refuse(member, f"is of another kind than {members[0]}; {advice}")


def _refuse(member: Member, fault: str) -> NoReturn:
    """Tell a worker why it is not wanted, and raise `WorkerError`."""
    member.connection.send(Message("goodbye", fields={"fault": fault}))
    member.connection.close()
    raise WorkerError(f"{member} {fault}")


def _warn_of_unequal_memory(members: Any) -> None:
    free = {str(member): member.about["memory"] for member in members if member.about["device"] != "cpu"}
    least = min(free, key=lambda name: free[name], default=None)
    if least and free[least] < UNEQUAL * max(free.values()):
        logging.warning(
            "%s has %.1f GiB free, others up to %.1f: all do equal work, so the smallest one sets the limit",
            least, free[least] / 2**30, max(free.values()) / 2**30,
        )  # fmt: skip
