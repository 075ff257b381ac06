"""Sessions and who holds them: a session is begun for a caller, run by the engine's thread, and ended when they go."""

import asyncio
import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import LiveTalkError
from ..performer import Cast
from ..record import Recorder, numbered
from ..session import LiveSession, Sink
from .caller import Caller, Tell
from .seats import MOST_WAITING, Seats
from .voice import Voice

GRACE_SECONDS = 2.0
"""A caller whose socket closed may come back for so long: the page was reloaded."""
IDLE_SECONDS = 1800


@dataclass
class House:
    """One engine, one seat. On the event loop's thread, but for `perform`.

    `outputs` are made for each session beside the callers' own streams; `lasting`: one session for as long as the
    server lives, because they show it to others than the caller. `record`: where each session is recorded. `once`:
    one session, and `perform` returns with it, or raises what it failed with.
    """

    cast: Cast
    voice: Voice | None = None
    outputs: Callable[[], list[Sink]] = list
    lasting: bool = False
    record: Path | None = None
    waiting: int = MOST_WAITING
    idle_seconds: float = IDLE_SECONDS
    once: bool = False
    recordings: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seats = Seats(self.waiting)
        self.session: LiveSession | None = None
        self.caller: Caller | None = None
        self.loop: asyncio.AbstractEventLoop
        self._tells: dict[str, list[Tell]] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._stage_door: queue.Queue[LiveSession] = queue.Queue()
        self._sessions = 0

    def enter(self, caller: str, tell: Tell) -> int:
        """A socket of a caller opened; its place, 0 for the seat. `InputError` where there is no place."""
        place = self.seats.ask(caller)
        if (leaving := self._leaving.pop(caller, None)) is not None:
            leaving.cancel()
        self._tells.setdefault(caller, []).append(tell)
        if place == 0:
            self._begin()
        return place

    def leave(self, caller: str, tell: Tell) -> None:
        """A socket closed; the last one's caller is gone unless it soon comes back."""
        self._tells[caller].remove(tell)
        if not self._tells[caller]:
            self._leaving[caller] = self.loop.call_later(GRACE_SECONDS, self._gone, caller)

    def tell(self, message: dict[str, Any], caller: str | None = None) -> None:
        """Send a message to all sockets of a caller, the seat's holder if none is named."""
        for tell in self._tells.get(caller or self.seats.holder or "", ()):
            tell(message)

    def dismiss(self, caller: str) -> None:
        """The caller wants no more."""
        self.tell({"type": "ended"}, caller)
        self._gone(caller)

    def check_idle(self) -> None:
        """Ends the session of a caller who has said nothing for too long."""
        if self.caller is not None and time.monotonic() - self.caller.heard_at > self.idle_seconds:
            self.tell({"type": "failed", "message": f"nothing was said for {self.idle_seconds / 60:.0f} minutes"})
            self._gone(self.seats.holder or "")

    def perform(self, poll: Callable[[], None]) -> None:
        """In the engine's thread: run one session after another until `poll` raises, or the first if `once`."""
        while True:
            poll()
            try:
                session = self._stage_door.get(timeout=0.1)
            except queue.Empty:
                continue
            error: Exception | None = None
            try:
                session.run(poll)
            except LiveTalkError as failure:
                error = failure
                logging.error("live: the session ended: %s", failure)
            self.loop.call_soon_threadsafe(self._ended, session, error)
            if self.once:
                if error is not None:
                    raise error
                return

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called first, on the event loop's thread."""
        self.loop = loop
        if self.lasting:
            self._begin()

    def _begin(self) -> None:
        """The seat's holder may speak."""
        if self.session is None:
            self._sessions += 1
            sinks = self.outputs()
            if self.record is not None:
                sinks.append(self._recorder(self.record))
            self.session = LiveSession(self.cast, sinks, self._said)
            self._stage_door.put(self.session)
        if self.caller is None and self.seats.holder is not None:
            self.caller = Caller(self.session, self.voice, self.tell)
        self.tell({"type": "ready"})

    def _recorder(self, record: Path) -> Recorder:
        path = numbered(record, self._sessions)
        self.recordings.append(path)
        return Recorder(path, *self.cast.shown_size)

    def _said(self, number: int) -> None:
        self.loop.call_soon_threadsafe(self.tell, {"type": "said", "utterance": number})

    def _gone(self, caller: str) -> None:
        self._leaving.pop(caller, None)
        holder = self.seats.holder == caller
        self.seats.leave(caller)
        if holder and self.caller is not None:
            self.caller.close()
            self.caller = None
            if self.session is not None and not self.lasting:
                self.session.stop()
            else:
                self._next()
        self._tell_places()

    def _ended(self, session: LiveSession, error: Exception | None) -> None:
        """The engine is free again."""
        if session is not self.session:
            return
        self.session = self.caller = None
        if error is not None and (holder := self.seats.holder) is not None:
            self.tell({"type": "failed", "message": str(error)})
            self.seats.leave(holder)
        if self.lasting:
            self._begin()
        self._next()

    def _next(self) -> None:
        """The first in line gets the seat."""
        if self.seats.holder is not None:
            self._begin()
        self._tell_places()

    def _tell_places(self) -> None:
        for caller in list(self._tells):
            if self._tells[caller] and caller != self.seats.holder and self.seats.waits(caller):
                self.tell({"type": "waiting", "place": self.seats.ask(caller)}, caller)
        self._tells = {caller: tells for caller, tells in self._tells.items() if tells}
