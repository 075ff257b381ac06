"""Several voices heard at once, as one sound."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np

from .audio import AudioSource


class MixedAudio(AudioSource):
    """The sum of several sources that begin together: as long as the longest, at the highest sample rate."""

    def __init__(self, sources: Sequence[AudioSource]) -> None:
        self._sources = tuple(sources)
        self.sample_rate = max(source.sample_rate for source in sources)
        self.channels = min(2, max(source.channels for source in sources))
        self._survey("the mixed voices")
        self.notes = tuple(note for source in sources for note in source.notes)

    def reader(self) -> "MixedAudio":
        """See `AudioSource.reader`: of each voice, too."""
        other = copy.copy(self)
        other._sources = tuple(source.reader() for source in self._sources)
        other._tracks = {}
        return other

    def _blocks(self) -> Iterator[np.ndarray]:
        """One second at a time; what would clip is limited."""
        rate = self.sample_rate
        total = max(-(-source.samples * rate // source.sample_rate) for source in self._sources)
        for start in range(0, total, rate):
            count = min(rate, total - start)
            voices = [self._read(source, start, count) for source in self._sources]
            yield np.sum(voices, axis=0).clip(-1, 1)

    def _read(self, source: AudioSource, start: int, count: int) -> np.ndarray:
        """[channels, count], a mono source on both channels of a stereo mix."""
        samples = source.read(start, count, self.sample_rate, mono=self.channels == 1)
        return np.broadcast_to(samples, (self.channels, count))
