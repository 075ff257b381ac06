"""The one clock of a live stream: it says when the next frame is due, and what was late."""

from dataclasses import dataclass

from ..shapes import FRAMES_PER_SECOND

TOLERANCE = 0.5 / FRAMES_PER_SECOND
"""A frame that leaves less than half a frame late was on time: the thread woke late, and the next one makes up."""


@dataclass
class FrameClock:
    """25 frames a second from the first one on; times are seconds of any monotonic clock.

    Where a frame is late, the clock stops until it leaves: sound leaves with its frame, so both stop together, and
    nothing is hurried afterwards. `late` counts those frames, `stopped` adds up the seconds.
    """

    frames: int = 0
    late: int = 0
    stopped: float = 0.0
    _origin: float | None = None

    @property
    def due(self) -> float | None:
        """When the next frame is to leave; None before the first one, which is never late."""
        return None if self._origin is None else self._origin + self.frames / FRAMES_PER_SECOND

    def is_late(self, now: float) -> bool:
        """Whether the next frame should have left by now."""
        return self.due is not None and now - self.due > TOLERANCE

    def sent(self, now: float) -> None:
        """A frame left."""
        if self._origin is None:
            self._origin = now
        behind = now - self._origin - self.frames / FRAMES_PER_SECOND
        if behind > TOLERANCE:
            self.late += 1
            self.stopped += behind
            self._origin += behind
        self.frames += 1
