"""Workers that are threads of the test's own process: they speak the protocol, and do what a script says."""

import socket
import threading
import time
from contextlib import contextmanager

import torch

from livetalk_core import __version__
from livetalk_core.errors import WorkerError
from livetalk_core.parallel.protocol import Message, introduce
from livetalk_core.parallel.release import CODE

SECRET = b"a secret of this test"
BEAT = 0.05


class FakeWorkers:
    """A source of `ranks` workers; `script(worker, message)` answers each call."""

    def __init__(self, script, ranks=1, waits=True, about=lambda _: {}, meets=False):
        self.script, self.ranks, self.secret, self.waits = script, ranks, SECRET, waits
        self.about, self.meets, self.tls = about, meets, None
        self.workers = []

    @contextmanager
    def listen(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            for rank in range(self.ranks):
                self.workers.append(FakeWorker(self, rank, server.getsockname()))
            yield server

    def meet(self):
        return {}

    def fate(self, rank):
        return None

    def is_stopped(self, rank):
        return False

    def wait(self, rank):
        pass

    def close(self):
        for worker in self.workers:
            worker.thread.join(10)


class FakeWorker:
    def __init__(self, source, rank, address):
        self.source, self.rank, self.exchanges = source, rank, 0
        self.beating = True
        self.thread = threading.Thread(target=self.serve, args=(address,), daemon=True)
        self.thread.start()

    def serve(self, address):
        with socket.create_connection(address) as connected:
            try:
                self.connection = introduce(connected, SECRET)
                self.connection.send(Message("hello", fields=self.about()))
                threading.Thread(target=self.beat, daemon=True).start()
                while (message := self.connection.receive()).kind != "goodbye":
                    if self.source.meets:
                        self.connection.send(Message("meets", message.job, {"begins": True}))
                        continue
                    if message.kind == "call":
                        self.source.script(self, message)
                    self.connection.send(Message("done", message.job))
            except (WorkerError, OSError):
                pass

    def about(self):
        return {
            "device": "cpu", "host": socket.gethostname(), **self.source.about(self),
            "rank": self.rank, "ranks": self.source.ranks, "memory": 1,
            "process": 7, "release": __version__, "code": CODE, "torch": torch.__version__,
        }  # fmt: skip

    def beat(self):
        try:
            while self.beating:
                place = {"at": "a script", "waits": self.source.waits, "exchanges": self.exchanges}
                self.connection.send(Message("alive", fields=place))
                time.sleep(BEAT)
        except (WorkerError, OSError):
            pass
