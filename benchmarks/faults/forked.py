"""Workers that are forked from a process which has imported everything: a start takes a moment instead of seconds.

What runs in them is `python -m livetalk_core worker`, its options and its secret on standard input as ever; only the
kernel's end with the parent is missing, since their parent is the process that they are forked from.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from typing import IO

from livetalk_core.commands import worker

IMPORTED = ("livetalk_core.commands.worker", "livetalk_core.parallel.worker", "livetalk_core.streaming.engine_runner")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


def begin() -> None:
    """Start the process that others are forked from, with its folder where temporary files lie now."""
    util.get_temp_dir()
    forkserver.ensure_running()


class ForkedWorker:
    """A worker of these options; see `subprocess.Popen` for what it has of that."""

    def __init__(self, arguments: Sequence[str], secret: bytes) -> None:
        theirs, ours = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_work, args=(theirs, list(arguments)))
        self._process.start()
        assert self._process.pid is not None, "it is started"
        self.pid = self._process.pid
        self._code: int | None = None
        theirs.close()
        self.stdin: IO[bytes] = os.fdopen(os.dup(ours.fileno()), "wb")
        ours.close()
        self.stdin.write(secret + b"\n")
        self.stdin.flush()

    def poll(self) -> int | None:
        """See `Popen.poll`."""
        if self._code is None and (code := self._process.exitcode) is not None:
            self._code = code
            self._process.close()  # else its descriptors stay as long as it is known
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if self._code is None:
            self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        return code

    def kill(self) -> None:
        """See `Popen.kill`."""
        if self.poll() is None:
            self._process.kill()


def _work(source: Connection, arguments: Sequence[str]) -> None:
    """Be a worker whose standard input is `source`."""
    os.dup2(source.fileno(), 0)
    source.close()
    sys.stdin = os.fdopen(0)
    sys.exit(worker.main(arguments))
