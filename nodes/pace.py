"""What a node says of its work: how fast it goes, how long it will take, and what it does not use."""

import time
from collections.abc import Callable


class Pace:
    """Frames per second since it was made, and the time that the rest will take at that pace."""

    def __init__(self, done: int, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._total, self._clock = done, total, clock
        self._begin = clock()

    def line(self, done: int) -> str:
        """Where the render stands with `done` frames: `61 of 153 frames, 1.3 per second, 1 min 10 s left`."""
        rate = (done - self._first) / max(self._clock() - self._begin, 1e-6)
        left = (self._total - done) / max(rate, 1e-6)
        return f"{done} of {self._total} frames, {rate:.3g} per second, {duration(left)} left"


def duration(seconds: float) -> str:
    """A time as people say it: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def unused_line(changes: list[str]) -> str:
    """A line below the pace on changes of the MODEL that have no effect; empty where there are none."""
    return f"\nnot used by LiveTalk: {', '.join(changes)}" if changes else ""
