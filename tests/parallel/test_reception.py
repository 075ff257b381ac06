"""What the system refuses while workers are awaited is said, and not for ever waited out."""

import errno
import resource
import socket
import sys
from pathlib import Path

import pytest

from livetalk_core.errors import WorkerError
from livetalk_core.parallel import reception
from livetalk_core.parallel.launch import LocalWorkers, starting
from livetalk_core.parallel.meeting import Meeting
from livetalk_core.parallel.reception import Reception


class FullServer:
    """No descriptor is left for one that waits to be let in."""

    def settimeout(self, _):
        pass

    def accept(self):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_process_without_descriptors_says_so(monkeypatch):
    monkeypatch.setattr(reception, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reception, "FULL_SECONDS", 0.1)
    receiving, looks = Reception(FullServer(), b"a secret"), 0
    with (
        pytest.raises(WorkerError, match=r"Too many open files: close some, or raise the limit \(ulimit -n\)$"),
        starting(),
    ):
        while True:
            assert receiving.next() is None
            looks += 1
    assert looks == 10


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_store_without_descriptors_says_so_and_leaves_no_port_open():
    """torch says no more than that its loop cannot begin."""
    Meeting("127.0.0.1").close()  # the first one in a process opens a pipe for all that follow
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, last = descriptors(), socket.socket()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        last.close()  # the port takes this one
        with pytest.raises(WorkerError, match=r"Too many open files: close some, or raise the limit"), starting():
            Meeting("127.0.0.1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before


def test_whatever_hinders_a_start_is_raised_and_not_waited_for():
    class Hindered(LocalWorkers):
        def _process(self, rank, port):
            raise EOFError("nobody starts processes any more")

    workers = Hindered(["cpu"])
    with pytest.raises(EOFError, match="any more"), workers.listen():
        pass
    workers.close()


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/dev/fd").iterdir()))


def test_other_errors_of_the_system_are_named_too():
    with pytest.raises(WorkerError, match=r"^cannot start workers: \[Errno 98\] in use$"), starting():
        raise OSError(errno.EADDRINUSE, "in use")
