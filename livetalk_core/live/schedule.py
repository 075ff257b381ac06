"""What the engine is to compute next: pure decisions from what is shown, what waits and how long a chunk takes."""

import math
from collections import deque
from typing import NamedTuple

from ..shapes import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from .reel import Reel
from .speech import FLOW_SECONDS, Speech

REMEMBERED = 6
"""Chunks whose times are the measure for the next."""


class Order(NamedTuple):
    """A chunk to make: its first new frame has place `begin`, it adds `frames`, and speech is in it or not."""

    begin: int
    frames: int
    speaks: bool


class Timing:
    """How long chunks of one length take: seconds until their first frames, and until their end.

    The first one is no measure: it also pays for what is made once for all of its shape.
    """

    def __init__(self) -> None:
        self._warm = False
        self._firsts: deque[float] = deque(maxlen=REMEMBERED)
        self._chunks: deque[float] = deque(maxlen=REMEMBERED)

    def took(self, first: float, chunk: float) -> None:
        """Note the times of a chunk."""
        if not self._warm:
            self._warm = True
            return
        self._firsts.append(first)
        self._chunks.append(chunk)

    @property
    def first(self) -> float:
        """Seconds until the first frames, the longest of the last chunks'; 0 before any is known."""
        return max(self._firsts, default=0.0)

    @property
    def chunk(self) -> float:
        """Seconds for a chunk, the mean of the last ones; 0 before any is known."""
        return sum(self._chunks) / len(self._chunks) if self._chunks else 0.0

    def reach(self, wait: float) -> int:
        """Frames shown until a chunk begun now gives its first one, and one more; the next is due in `wait` s."""
        return max(0, 1 + math.ceil((self.first - wait) * FRAMES_PER_SECOND))


def quick_stands_less(quick: Timing, quick_frames: int, full: Timing, ahead: float) -> bool:
    """Whether a quick chunk and a full one after it stand still for less time than a full one at once.

    `ahead` seconds are there to be shown; one of `quick_frames` that takes longer than these last gains nothing.
    """
    shown_from = max(ahead, quick.first)
    between = quick.chunk + full.first - shown_from - quick_frames / FRAMES_PER_SECOND
    return shown_from - ahead + max(0.0, between) < max(0.0, full.first - ahead)


def next_order(reel: Reel, speech: Speech, timing: Timing, frames: int, now: float, due: float) -> Order | None:
    """The next chunk, of `frames` new frames; None where there is nothing to do yet. The next frame is due at `due`.

    Speech takes the place of silence that was computed ahead, as early as its first frames can be there. All else goes
    behind what there is, as soon as its first group will find room. In the middle of an utterance whose sound still
    flows, silence would tear a word: then it waits, until the next frame is late by as much as makes sound dry up.
    """
    flows = speech.flows(now)
    if speech.ready(frames * SAMPLES_PER_FRAME) or (speech.samples and not flows):
        begin = min(reel.end, max(reel.spoken_end, reel.shown + timing.reach(due - now)))
        return Order(begin, frames, True) if reel.has_room(begin) else None
    if speech.midway and flows and now - due < FLOW_SECONDS:
        return None
    return Order(reel.end, frames, speech.midway and speech.samples > 0) if reel.has_room(reel.end) else None
