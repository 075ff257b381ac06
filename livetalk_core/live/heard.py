"""What the model hears of a live stream: the last seconds of sound, up to the end of the chunk at work."""

from collections.abc import Iterator

import numpy as np

from ..errors import InputError
from ..media.audio import AudioSource
from ..shapes import SAMPLE_RATE, SAMPLES_PER_FRAME

KEEP_SECONDS = 10
"""More than mode `stream` hears."""


class HeardSound(AudioSource):
    """16 kHz mono that grows at its end, may be cut back there, and forgets its beginning."""

    sample_rate, channels, fingerprint = SAMPLE_RATE, 1, "live"

    def __init__(self) -> None:
        self.samples = 0
        self._kept = np.zeros(0, np.float32)

    def go_on(self, frame: int, sound: np.ndarray) -> None:
        """From frame `frame` of the stream on, `sound` [n] float32 is heard; what was there is forgotten."""
        start = frame * SAMPLES_PER_FRAME
        first = self.samples - len(self._kept)
        assert first <= start <= self.samples, "places within what is kept"
        joined = np.concatenate([self._kept[: start - first], sound])
        self._kept, self.samples = joined[-KEEP_SECONDS * SAMPLE_RATE :], start + len(sound)

    def read(self, start: int, count: int, sample_rate: int, mono: bool) -> np.ndarray:
        """See `AudioSource.read`; at its own rate alone, and zeros for what is forgotten."""
        if sample_rate != SAMPLE_RATE:
            raise InputError(f"live sound is read at {SAMPLE_RATE} Hz, not at {sample_rate} Hz")
        window = np.zeros((1, count), np.float32)
        first = self.samples - len(self._kept)
        begin, stop = max(start, first), min(start + count, self.samples)
        if begin < stop:
            window[0, begin - start : stop - start] = self._kept[begin - first : stop - first]
        return window

    def _blocks(self) -> Iterator[np.ndarray]:
        yield self._kept[None]
