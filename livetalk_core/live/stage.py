"""What a live stream does, decided without threads: the time is given, work and moments are handed out.

Whoever drives it (`session.LiveSession`, a simulation) asks for the next chunk's work, puts its moments in, and takes
out what is due.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..shapes import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from .clock import FrameClock
from .figures import Figures
from .reel import Moment, Reel
from .schedule import Order, Timing, next_order, quick_stands_less
from .speech import Speech, Taken

FADE = 80
"""Samples in which the sound of an interrupted utterance dies away: 5 ms, so that it does not click."""
REACTIONS = 4
"""Quick chunks that may follow an interruption."""
ROOM_SECONDS = 60
"""Whoever has much to say sends more when less than this waits."""


class Stale(Exception):
    """The work at hand is of a generation that has gone."""


class Work(NamedTuple):
    """A chunk that has been begun: `last` are the frames [3,1,H,W] before it, `taken` is its sound."""

    order: Order
    generation: int
    last: Sequence[Tensor]
    taken: Taken


class Stage:
    """One stream in chunks of `frames` new frames, after an interruption one of `quick`; `motion_frames` are handed on.

    Frames are decoded `group` at a time. Times are seconds of one monotonic clock.
    """

    def __init__(self, frames: int, quick: int, motion_frames: int, group: int) -> None:
        self.clock, self.speech, self.figures = FrameClock(), Speech(), Figures()
        self.reel = Reel(motion_frames, frames, group)
        self.timings = {length: Timing() for length in (frames, quick)}
        self._frames, self._quick, self._motion_frames = frames, quick, motion_frames
        self._reacting = 0
        self._work: Work | None = None
        self._held: Moment | None = None
        self._ends: deque[tuple[int, int]] = deque()

    def begin(self, now: float) -> int:
        """A new utterance; its number."""
        number = self.speech.begin(now)
        self._speech_came()
        return number

    def add(self, sound: np.ndarray, now: float) -> None:
        """More of it, [n] float32 at 16 kHz. `InputError` where too much waits."""
        self.speech.add(sound, now)
        self._speech_came()

    def end(self) -> None:
        """The utterance is complete."""
        self.speech.end()
        self._speech_came()

    def interrupt(self) -> None:
        """Be silent from the next frame on, and forget what was to be said.

        What is spoken ahead is dropped, and the last frame shown again, without sound, until the next chunk is there.
        """
        self.speech.clear()
        self._ends.clear()
        reel, at = self.reel, self.reel.spoken_begin
        if at == reel.end and not (self._work is not None and self._work.order.speaks):
            return
        dropped = reel.cut(at)
        if at == reel.shown:
            self._reacting = REACTIONS
            if dropped and (shown := reel.last(1)):
                self._held = shown[0]._replace(sound=_faded(dropped[0].sound), spoken=False, arrived=None)

    def next_work(self, now: float) -> Work | None:
        """The next chunk, begun now; None where there is nothing to compute yet."""
        due = now if self.clock.due is None else self.clock.due
        frames = self._length(due - now)
        order = next_order(self.reel, self.speech, self.timings[frames], frames, now, due)
        if order is None:
            return None
        if order.begin < self.reel.end:
            self.reel.cut(order.begin)
        taken = self._taken(order)
        self._ends += [(order.begin + -(-at // SAMPLES_PER_FRAME), number) for at, number in taken.ends]
        self._reacting = max(0, self._reacting - 1)
        last = [moment.frame for moment in self.reel.last(self._motion_frames)]
        self._work = Work(order, self.reel.generation, last, taken)
        return self._work

    def check(self, work: Work) -> None:
        """Raise `Stale` where the work is of a generation that has gone."""
        if work.generation != self.reel.generation:
            raise Stale

    def put(self, work: Work, moment: Moment) -> bool:
        """Put the work's next moment behind the others; False where there is no room yet. Raises `Stale`."""
        self.check(work)
        return self.reel.lead < self.reel.most and self.reel.add(work.generation, moment)

    def worked(self, first: float | None, seconds: float) -> None:
        """The work is over: it took so long until its first frames, and to its end; None where it was broken off."""
        assert self._work is not None, "begun before"
        if first is not None:
            self.timings[self._work.order.frames].took(first, seconds)
        self._work = None

    def next_moment(self, now: float) -> Moment | None:
        """What leaves now; None where nothing is due, or nothing is there."""
        if self.clock.due is not None and now < self.clock.due:
            return None
        moment = self.reel.take()
        if moment is not None:
            self._held = None
        elif self._held is not None:
            moment = self._held
            self._held = moment._replace(sound=np.zeros_like(moment.sound))
            self.figures.held += 1
        if moment is not None:
            self.clock.sent(now)
            self.figures.sent(moment, now)
        return moment

    def said(self) -> list[int]:
        """Utterances whose last moment has left; each is told once."""
        numbers = []
        while self._ends and self._ends[0][0] <= self.reel.shown:
            numbers.append(self._ends.popleft()[1])
        return numbers

    @property
    def room(self) -> bool:
        """Whether little speech waits."""
        return self.speech.samples < ROOM_SECONDS * SAMPLES_PER_FRAME * FRAMES_PER_SECOND

    def told(self, now: float) -> dict[str, float | int | str | None]:
        """The stream's figures (see docs/live.md)."""
        late = self.clock.is_late(now)
        return self.figures.told(self.clock, self.reel, self.timings[self._frames], self._frames, late)

    def _length(self, wait: float) -> int:
        """Quick chunks follow an interruption where they shorten the time in which nothing new is shown."""
        quick, full = self.timings[self._quick], self.timings[self._frames]
        ahead = wait + self.reel.lead / FRAMES_PER_SECOND
        return self._quick if self._reacting and quick_stands_less(quick, self._quick, full, ahead) else self._frames

    def _taken(self, order: Order) -> Taken:
        samples = order.frames * SAMPLES_PER_FRAME
        if order.speaks:
            return self.speech.take(samples)
        return Taken(np.zeros(samples, np.float32), 0, [], [])

    def _speech_came(self) -> None:
        """Speech that is ready need not wait for a chunk of silence that is being computed."""
        self._ends += [(self.reel.spoken_end, number) for number in self.speech.exhausted()]
        silent = self._work is not None and not self._work.order.speaks
        if silent and self.speech.ready(self._frames * SAMPLES_PER_FRAME):
            self.reel.cut(self.reel.end)


def _faded(sound: np.ndarray) -> np.ndarray:
    """The beginning of a moment's sound, dying away."""
    faded = np.zeros_like(sound)
    faded[:FADE] = sound[:FADE] * np.linspace(1, 0, FADE, dtype=np.float32)
    return faded
