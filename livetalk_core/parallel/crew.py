"""Connected workers as the controller sees them: what they say, when they were last heard of, how fast they work."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import WorkerError
from .launch import EXIT_SECONDS, Source
from .protocol import Disconnected, Message, pack
from .reception import Member

TICK, LONGEST_TICK = 0.5, 2.0
"""Seconds between two looks at the clock, and the most that one of them counts."""


class RunningClock:
    """Seconds in which this process itself ran.

    While it was stopped (Ctrl-Z, a frozen container) it heard nothing of its workers, which proves nothing against
    them; they were stopped with it, too, as often as not.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seconds, self._last = clock, 0.0, clock()
        self._looking, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._tick, name="LiveTalk clock", daemon=True).start()

    def now(self) -> float:
        """Seconds so far."""
        with self._looking:
            moment = self._clock()
            self._seconds += min(moment - self._last, LONGEST_TICK)
            self._last = moment
            return self._seconds

    def close(self) -> None:
        """End the thread that looks at the clock."""
        self._ended.set()

    def _tick(self) -> None:
        while not self._ended.wait(TICK):
            self.now()


class Event(NamedTuple):
    """A message that a worker sent; None when its connection is lost."""

    rank: int
    message: Message | None


class Link:
    """One worker's connection: a thread reads, another one sends, so that no worker can hold up the controller."""

    def __init__(self, member: Member, clock: RunningClock, events: "queue.SimpleQueue[Event]") -> None:
        self.member, self._clock, self._events = member, clock, events
        self.seen = self.moved = clock.now()
        """When it last gave a sign of life; when it last took part in an exchange between ranks."""
        self.place: Mapping[str, Any] = {}
        """Where its main thread is."""
        self.lost = False
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader, self._sender = (threading.Thread(target=work, daemon=True) for work in (self._read, self._send))
        for thread in (self._reader, self._sender):
            thread.start()

    def post(self, data: bytes) -> None:
        """Send what `pack` made, soon."""
        self._outbox.put(data)

    def wait(self, seconds: float) -> None:
        """Wait a moment until the worker closes its side."""
        self._reader.join(seconds)

    def close(self) -> None:
        """Close the connection; what is under way on it is broken off."""
        self._outbox.put(None)
        self.member.connection.close()

    def join(self) -> None:
        """Wait for the threads of a closed link."""
        for thread in (self._reader, self._sender):
            thread.join()

    def _send(self) -> None:
        with suppress(Disconnected):  # found out by the reader
            while (data := self._outbox.get()) is not None:
                self.member.connection.send_packed(data)

    def _read(self) -> None:
        try:
            while True:
                self._take(self.member.connection.receive(self._live))
        except WorkerError as error:
            if not isinstance(error, Disconnected):
                logging.error("%s: %s", self.member, error)
            self.lost = True
            self._events.put(Event(self.member.rank, None))

    def _live(self) -> None:
        self.seen = self._clock.now()

    def _take(self, message: Message) -> None:
        if message.kind != "alive":
            self._events.put(Event(self.member.rank, message))
            return
        if message.fields.get("exchanges") != self.place.get("exchanges"):
            self.moved = self.seen
        self.place = message.fields


class Crew:
    """Connected workers, from their start to their end."""

    def __init__(self, source: Source, members: Sequence[Member]) -> None:
        self.source, self.members, self.clock = source, members, RunningClock()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.links = [Link(member, self.clock, self.events) for member in members]
        self.rates: dict[str, float] = {}
        """Seconds that an operation of each kind of work has taken at most, between two reports."""

    def send(self, message: Message) -> None:
        """To all workers; returns at once."""
        self.post(pack(message))

    def post(self, data: bytes) -> None:
        """The same, packed."""
        for link in self.links:
            link.post(data)

    @property
    def moved(self) -> float:
        """When ranks last got on with their exchanges."""
        return max(link.moved for link in self.links)

    def silent(self, seconds: float) -> list[Member]:
        """Those that have given no sign of life for so long."""
        now = self.clock.now()
        return [link.member for link in self.links if now - link.seen > seconds]

    def gone(self, seconds: float) -> list[Member]:
        """The same, and those whose connection is lost, or whose process has ended: either may be noticed first."""
        ended = [link.member for link in self.links if link.lost or self.source.fate(link.member.rank) is not None]
        return ended or self.silent(seconds)

    def close(self, politely: bool) -> None:
        """End the workers and the threads that listen to them."""
        if politely:
            self.send(Message("goodbye"))
            until = time.monotonic() + EXIT_SECONDS
            for link in self.links:
                link.wait(max(0.0, until - time.monotonic()))
        for link in self.links:
            link.close()
        self.source.close()
        for link in self.links:
            link.join()
        self.clock.close()
