"""What a live stream tells about itself."""

from collections import deque

from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE
from .clock import FrameClock
from .reel import Moment, Reel
from .schedule import Timing

REMEMBERED = 100


class Figures:
    """Counts what leaves. `held`: how often the last frame was shown again after an interruption."""

    def __init__(self) -> None:
        self.held = 0
        self.first_pictures: deque[float] = deque(maxlen=REMEMBERED)
        self._speaking = False
        self._samples = 0

    def sent(self, moment: Moment, now: float) -> None:
        """A moment left."""
        self._speaking = moment.spoken
        self._samples += len(moment.sound)
        if moment.arrived is not None:
            self.first_pictures.append(now - moment.arrived)

    def told(
        self, clock: FrameClock, reel: Reel, timing: Timing, chunk: int, late: bool
    ) -> dict[str, float | int | str | None]:
        """Seconds, frames and factors by name; `chunk` is the new frames of one, `late`: the next frame is overdue."""
        state = "speaking" if self._speaking else "idle"
        first = self.first_pictures[-1] if self.first_pictures else None
        return {
            "state": "starting" if not clock.frames else "late" if late else state,
            "frames": clock.frames,
            "late_frames": clock.late,
            "stopped_seconds": round(clock.stopped, 3),
            "held_frames": self.held,
            "offset_seconds": clock.frames / FRAMES_PER_SECOND - self._samples / SAMPLE_RATE,
            "lead_frames": reel.lead,
            "generation": reel.generation,
            "chunk_seconds": round(timing.chunk, 3),
            "first_group_seconds": round(timing.first, 3),
            "realtime_factor": round(chunk / FRAMES_PER_SECOND / timing.chunk, 2) if timing.chunk else None,
            "first_picture_seconds": None if first is None else round(first, 3),
        }
