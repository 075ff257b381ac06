"""What leaves, as a file: the render's own writer, playable while it grows and after a kill."""

import queue
import threading
from pathlib import Path

import numpy as np

from ..errors import LiveTalkError
from ..media.sound import AAC_FRAME, LOOK_AHEAD
from ..media.video import VideoWriter
from ..shapes import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from .heard import HeardSound
from .mux import OutputLost
from .reel import Moment

CHUNK = FRAMES_PER_SECOND
"""Frames that are put on the disk together."""
AHEAD = -(-LOOK_AHEAD * AAC_FRAME // SAMPLES_PER_FRAME)
"""Frames whose sound must be known before a chunk is written: its encoder looks ahead."""
WAITING_SECONDS = 20
"""Of stream that may wait for a slow disk."""


class Recorder:
    """A sink: every moment that leaves goes into `path`, on a thread of its own. `error` says why it ended early."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.path, self.error = path, None
        self._sound = HeardSound()
        self._writer = VideoWriter.create(path, height, width, self._sound)
        self._waiting: queue.Queue[Moment | None] = queue.Queue(WAITING_SECONDS * FRAMES_PER_SECOND)
        self._thread = threading.Thread(target=self._run, name="LiveTalk recorder")
        self._thread.start()

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        if self.error is not None:
            raise OutputLost(f"the recording ended: {self.error}")
        try:
            self._waiting.put_nowait(moment)
        except queue.Full:
            self.error = f"the disk is {WAITING_SECONDS} s behind"
            raise OutputLost(f"the recording ended: {self.error}") from None

    def close(self) -> None:
        """Finish the file: it lies at `path` afterwards. Returns when it does."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._write_all()
        except LiveTalkError as error:
            self.error = str(error)
        finally:
            self._writer.close()

    def _write_all(self) -> None:
        taken, frames = 0, []
        while (moment := self._waiting.get()) is not None:
            self._sound.go_on(taken, moment.sound)
            frames.append(moment.pixels)
            taken += 1
            if len(frames) >= CHUNK + AHEAD:
                self._writer.write(np.stack(frames[:CHUNK]))
                self._writer.end_chunk()
                frames = frames[CHUNK:]
        if frames:
            self._writer.write(np.stack(frames))
        if taken:
            self._writer.finish()


def numbered(path: Path, number: int) -> Path:
    """`talk.mp4`, then `talk-2.mp4` ...: the recording of a server's session `number`, from 1 on."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")
