"""How workers come in at an open port: each is heard by a thread of its own, and strangers are turned away."""

import logging
import queue
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import WorkerError
from .protocol import HANDSHAKE_SECONDS, Connection, welcome
from .secure import Tls

POLL_SECONDS = 0.1
FULL_SECONDS = 5
"""How long it is tried to let somebody in although no descriptor is left and no guest holds one."""
MOST_GUESTS = 64
"""Connections that may be under way to say who they are."""
LONGEST_LOOK = 1.0
"""The most seconds that count from one look at the door to the next: in longer ones this process was stopped."""


class Member(NamedTuple):
    """A connected worker and what it said of itself."""

    connection: Connection
    about: dict[str, Any]

    @property
    def rank(self) -> int:
        """Its number among the workers; -1 before it has one."""
        return -1 if self.about["rank"] is None else self.about["rank"]

    def __str__(self) -> str:
        about = self.about
        where = "" if about["host"] == socket.gethostname() else f" on {about['host']}"
        return (
            f"worker {'' if self.rank < 0 else f'{self.rank} '}({about['device']}{where}, process {about['process']})"
        )


class Guest(NamedTuple):
    """One that has connected and not yet said who it is."""

    host: str
    since: float
    """When it came, by the reception's own time."""
    thread: threading.Thread


class Reception:
    """Lets workers in at an open port; a context, which turns away who is not in when it ends.

    Each that comes is heard by a thread of its own: one that says nothing holds up neither the others nor a cancel. It
    has `HANDSHAKE_SECONDS` for all that it has to say, and leaves before when too many have come after it. Time in
    which this process was stopped is not counted: nobody was heard in it.
    """

    def __init__(self, server: socket.socket, secret: bytes, tls: Tls | None = None) -> None:
        self._server, self._secret, self._tls = server, secret, tls
        self._guests: dict[socket.socket, Guest] = {}
        self._refused: Counter[str] = Counter()
        self._full = 0
        self._seconds, self._looked = 0.0, time.monotonic()
        self._introduced: queue.SimpleQueue[Member] = queue.SimpleQueue()
        self._changing = threading.Lock()
        """Held while guests come or leave: one who is in must not be turned away."""
        server.settimeout(POLL_SECONDS)

    def __enter__(self) -> "Reception":
        return self

    def __exit__(self, *_: Any) -> None:
        with self._changing:
            guests, self._guests = self._guests, {}
        for connected, guest in guests.items():
            _shut(connected)
            guest.thread.join()
            connected.close()
        while not self._introduced.empty():
            self._introduced.get().connection.close()
        for host, count in self._refused.items():
            if count > 1:
                logging.warning("%d connections from %s were refused", count, host)

    def next(self) -> Member | None:
        """One that has shown that it knows the secret, if there is one now; its connection is the caller's."""
        self._turn_away()
        try:
            connected, (host, *_) = self._server.accept()
        except TimeoutError:
            self._full = 0
        except OSError as error:  # no descriptors are left: guests that hold them leave before long
            self._full += 1
            if not self._guests and self._full * POLL_SECONDS > FULL_SECONDS:
                raise
            logging.warning("cannot let a worker in (%s); waiting", error.strerror)
            time.sleep(POLL_SECONDS)
        else:
            self._full = 0
            thread = threading.Thread(target=self._hear, args=(connected, host), daemon=True)
            with self._changing:
                self._guests[connected] = Guest(host, self._seconds, thread)
            thread.start()
        return None if self._introduced.empty() else self._introduced.get()

    def _turn_away(self) -> None:
        """Forget those who have left; end the time of those who take too long, and of the oldest where all are many."""
        moment = time.monotonic()
        self._seconds, self._looked = self._seconds + min(moment - self._looked, LONGEST_LOOK), moment
        with self._changing:
            self._guests = {each: guest for each, guest in self._guests.items() if each.fileno() >= 0}
            oldest = list(self._guests)[: max(0, len(self._guests) - MOST_GUESTS)]
            late = self._seconds - HANDSHAKE_SECONDS
            for connected in {*oldest, *(each for each, guest in self._guests.items() if guest.since < late)}:
                _shut(connected)

    def _hear(self, connected: socket.socket, host: str) -> None:
        """Shake hands and hear who it is; strangers are turned away, with a line in the log for each host's first."""
        try:
            connection = welcome(connected, self._secret, self._tls)
            member = Member(connection, dict(connection.receive().fields))
            with self._changing:
                if self._guests.pop(connected, None):
                    self._introduced.put(member)
                else:  # the door is closed
                    connected.close()
        except (WorkerError, OSError) as error:
            self._refused[host] += 1
            if self._refused[host] == 1:
                logging.warning("a connection from %s was refused: %s", host, error)
            connected.close()


def _shut(connected: socket.socket) -> None:
    """Wake who waits for this socket; its thread closes it."""
    with suppress(OSError):  # it has gone by itself
        connected.shutdown(socket.SHUT_RDWR)
