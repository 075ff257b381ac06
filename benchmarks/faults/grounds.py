"""Where faults are tried: a fleet on this machine, whose parts can be made to fail, and what it may leave behind."""

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from livetalk_core.parallel.fleet import Fleet
from livetalk_core.streaming.fleet_engine import engine_setup

from .cases import FAULTS, Case
from .relay import RelayedWorkers

Undo = Callable[[], Any]
CONNECTING_SECONDS = 60


def nothing() -> None:
    """Nothing is to be undone."""


def lowest_free_descriptor(process: int) -> int:
    """The number that the next file of a process would get."""
    if process == os.getpid():  # whose folder of descriptors takes one while it is read
        free = os.dup(0)
        os.close(free)
        return free
    taken = {int(path.name) for path in Path(f"/proc/{process}/fd").iterdir()}
    return min(set(range(len(taken) + 1)) - taken)


def limit_descriptors(process: int, most: int) -> int:
    """Let no descriptor from this number on be opened; what the limit was before."""
    before, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (most, hard))
    return before


def suspend(seconds: float, *processes: int) -> Undo:
    """Stop processes, this one too, and have another one let them go on after so many seconds."""
    names = " ".join(map(str, processes))
    helper = subprocess.Popen(["sh", "-c", f"kill -STOP {names}; sleep {seconds}; kill -CONT {names}"])
    return helper.wait


class LocalGround:
    """A fleet of CPU workers of this machine, each connected through a relay."""

    faults = FAULTS

    def __init__(self, ranks: int) -> None:
        self.ranks, self._source = ranks, RelayedWorkers([])
        self.fleet = Fleet(f"cpu x{ranks}", self._start, "engine", engine_setup("nano", torch.float32))

    def _start(self) -> RelayedWorkers:
        self._source = RelayedWorkers(["cpu"] * self.ranks)
        return self._source

    def begin_load(self) -> None:
        """End the workers, so that the next job starts new ones."""
        self.fleet.close()
        self._source = RelayedWorkers([])

    def inject(self, case: Case) -> Undo:
        """Do what a case says; what is returned undoes what would outlast the workers."""
        if case.fault == "suspended controller":
            return suspend(case.seconds, os.getpid())
        if case.fault == "suspended job":
            workers = [process for rank in range(self.ranks) if (process := self._source.process(rank))]
            return suspend(case.seconds, os.getpid(), *workers)
        if case.fault == "full descriptors of the controller":
            before = limit_descriptors(os.getpid(), lowest_free_descriptor(os.getpid()))
            return lambda: limit_descriptors(os.getpid(), before)
        self._worker_fault(case)
        return nothing

    def _worker_fault(self, case: Case) -> None:
        wait_until(lambda: self._source.process(case.rank) is not None)
        process = self._source.process(case.rank)
        assert process is not None
        if case.fault in ("kill", "stop"):
            os.kill(process, signal.SIGKILL if case.fault == "kill" else signal.SIGSTOP)
        elif case.fault == "full descriptors":
            limit_descriptors(process, lowest_free_descriptor(process))
        else:
            wait_until(lambda: self._source.connected(case.rank))
            assert self._source.relay is not None
            (self._source.relay.cut if case.fault == "cut" else self._source.relay.hold)(process)

    def leftovers(self) -> dict[str, int]:
        """What there is of processes, descriptors and threads: after each fault the same, with the fleet running."""
        me = psutil.Process()
        children, threads = me.children(recursive=True), threading.active_count()
        return {"children": len(children), "descriptors": me.num_fds(), "threads": threads}


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    until = time.monotonic() + CONNECTING_SECONDS
    while not true() and time.monotonic() < until:
        time.sleep(0.005)


def is_running(process: int) -> bool:
    """Whether a process is there, and is no zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False
