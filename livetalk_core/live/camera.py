"""What leaves, as a camera of this machine (pyvirtualcam): for OBS, Zoom and the like. Pictures only."""

import queue
import threading

import pyvirtualcam  # pyright: ignore[reportMissingImports]

from ..errors import OutputError
from ..shapes import FRAMES_PER_SECOND
from .mux import OutputLost
from .reel import Moment


class Camera:
    """A sink. `OutputError` where this machine has no virtual camera."""

    def __init__(self, height: int, width: int) -> None:
        try:
            self._camera = pyvirtualcam.Camera(width, height, FRAMES_PER_SECOND)
        except RuntimeError as error:
            raise OutputError(
                f"no virtual camera ({error}); one is needed: OBS brings it on Windows and macOS, v4l2loopback on Linux"
            ) from error
        self._waiting: queue.Queue[Moment | None] = queue.Queue(FRAMES_PER_SECOND)
        self._thread = threading.Thread(target=self._run, name="LiveTalk camera", daemon=True)
        self._thread.start()

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        if not self._thread.is_alive():
            raise OutputLost("the virtual camera is gone")
        if not self._waiting.full():  # whoever films sees the newest picture; a camera has no past
            self._waiting.put_nowait(moment)

    def close(self) -> None:
        """Give the camera back."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        with self._camera:
            while (moment := self._waiting.get()) is not None:
                self._camera.send(moment.pixels)
