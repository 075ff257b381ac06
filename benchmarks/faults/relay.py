"""Workers of this machine whose connections go through a relay, by which each can be cut or held up."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psutil

from livetalk_core.parallel.launch import LOOPBACK, LocalWorkers

from .forked import ForkedWorker

PIECE = 2**16


class Pair(NamedTuple):
    """A worker's connection and ours; bytes pass while `open` is set."""

    worker: socket.socket
    controller: socket.socket
    open: threading.Event

    def shut(self) -> None:
        """End both, and let go who waits."""
        for each in (self.worker, self.controller):
            with suppress(OSError):  # it has ended by itself
                each.shutdown(socket.SHUT_RDWR)
        self.open.set()


class Relay:
    """Listens at `port` and passes on to `target`, until `close`."""

    def __init__(self, target: int) -> None:
        self._target, self._pairs = target, dict[int, Pair]()
        self._server = socket.create_server((LOOPBACK, 0))
        self.port: int = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, process: int) -> None:
        """End a process's connection."""
        self._of(process).shut()

    def hold(self, process: int) -> None:
        """Pass nothing on any more, either way; what is sent seems to arrive."""
        self._of(process).open.clear()

    def close(self) -> None:
        """End all. Returns when no thread is left."""
        with suppress(OSError):  # nobody listens any more
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for pair in self._pairs.values():
            pair.shut()
        for thread in self._threads:
            thread.join()
        for pair in self._pairs.values():
            pair.worker.close()
            pair.controller.close()

    def knows(self, process: int) -> bool:
        """Whether a process has connected."""
        return self._port_of(process) in self._pairs

    def _of(self, process: int) -> Pair:
        port = self._port_of(process)
        assert port is not None, f"process {process} is not connected"
        return self._pairs[port]

    def _port_of(self, process: int) -> int | None:
        """From which port a process is connected."""
        with suppress(psutil.Error):
            for each in psutil.Process(process).net_connections("tcp"):
                if each.raddr and each.raddr.port == self.port:
                    return each.laddr.port
        return None

    def _accept(self) -> None:
        while self._server.fileno() >= 0:
            try:
                worker, (_, port) = self._server.accept()
                self._begin(worker, port)
            except OSError:  # closed, nobody there, or no descriptor left
                time.sleep(0.1)

    def _begin(self, worker: socket.socket, port: int) -> None:
        pair = Pair(worker, socket.create_connection((LOOPBACK, self._target)), threading.Event())
        pair.open.set()
        self._pairs[port] = pair
        for ends in ((pair.worker, pair.controller), (pair.controller, pair.worker)):
            self._threads.append(threading.Thread(target=_pass_on, args=(*ends, pair), daemon=True))
            self._threads[-1].start()


def _pass_on(source: socket.socket, sink: socket.socket, pair: Pair) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE):
            pair.open.wait()
            sink.sendall(data)
    pair.shut()


class RelayedWorkers(LocalWorkers):
    """See `LocalWorkers`. The processes are forked (see `forked`)."""

    relay: Relay | None = None

    @contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """See `LocalWorkers.listen`."""
        with socket.create_server((LOOPBACK, 0)) as server:
            self.relay = Relay(server.getsockname()[1])
            self._start(self.relay.port)
            yield server

    def _process(self, rank: int, port: int) -> Any:
        return ForkedWorker(self._arguments(rank, port), self.secret)

    def close(self) -> None:
        """See `LocalWorkers.close`."""
        super().close()
        if self.relay is not None:
            self.relay.close()

    def process(self, rank: int) -> int | None:
        """The process of a rank; None before it is started."""
        return self._processes[rank].pid if rank < len(self._processes) else None

    def connected(self, rank: int) -> bool:
        """Whether a rank's connection is there to be cut."""
        process = self.process(rank)
        return process is not None and self.relay is not None and self.relay.knows(process)
