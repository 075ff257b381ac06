"""FFmpeg's frames as arrays: float32 [channels, samples] in -1..1, about a second at a time, and at other rates."""

from collections.abc import Iterable, Iterator

import av
import numpy as np

from .timeline import Silence, Trimmed

MISCOUNTED = 8
"""From so many channels on PyAV counts more planes than there are, and reads from the one too many."""


class Blocks:
    """Turns laid out frames into blocks of one rate and one channel layout, those of `like`."""

    def __init__(self, like: av.AudioFrame) -> None:
        self._rate, self._layout = like.sample_rate, like.layout.name
        self._channels = like.layout.nb_channels
        self._fifo = av.AudioFifo()
        self._kind: tuple[str, str, int] | None = None
        self._converter: av.AudioResampler | None = None

    def of(self, items: Iterable[av.AudioFrame | Silence | Trimmed]) -> Iterator[np.ndarray]:
        """Blocks of whole frames, of a second or a little more each."""
        for item in items:
            if isinstance(item, Silence):
                yield from self._rest()
                yield from _zeros(self._channels, item.samples, self._rate)
            elif isinstance(item, Trimmed):
                yield from self._rest()
                yield from _without(self._arrays(item.frame), item.skip)
            else:
                yield from self._gathered(item)
        yield from self._rest()

    def _gathered(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        frame.pts = None
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:  # the FIFO would read channels that are not there
            yield from self._rest()
            self._kind = kind
        self._fifo.write(frame)
        if self._fifo.samples >= self._rate:
            yield from self._arrays(self._fifo.read())

    def _rest(self) -> Iterator[np.ndarray]:
        """What has been gathered, also by a converter."""
        if self._fifo.samples:
            yield from self._arrays(self._fifo.read())
        if self._converter is not None:
            yield from (as_array(part) for part in self._converter.resample(None))
        self._fifo, self._converter = av.AudioFifo(), None

    def _arrays(self, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        assert frame is not None
        if (frame.sample_rate, frame.layout.nb_channels) == (self._rate, self._channels):
            yield as_array(frame)
            return
        if self._converter is None:
            self._converter = av.AudioResampler("flt", self._layout, self._rate)
        yield from (as_array(part) for part in self._converter.resample(frame))


def as_array(frame: av.AudioFrame) -> np.ndarray:
    """float32 [channels, samples] in -1..1 from a frame of any sample format."""
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    if frame.format.packed.name == "s64":  # PyAV makes no arrays of these
        (frame,) = av.AudioResampler("dbl").resample(frame)
        planar = False
    elif planar and channels >= MISCOUNTED:
        (frame,) = av.AudioResampler(frame.format.packed.name).resample(frame)
        planar = False
    data = frame.to_ndarray()
    data = data if planar else data.reshape(-1, channels).T
    if data.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a 64-bit sample beyond float32 becomes inf, which the survey refuses
            return data.astype(np.float32, copy=False)
    half = 2.0 ** (8 * data.itemsize - 1)
    return ((data - half if data.dtype.kind == "u" else data) / half).astype(np.float32)


def interleaved(block: np.ndarray) -> np.ndarray:
    """float32 [samples, channels] of a block [channels, samples]; channel by channel, NumPy is five times faster."""
    if block.T.flags.c_contiguous:
        return block.T.astype("<f4", copy=False)
    samples = np.empty(block.shape[::-1], "<f4")
    for number, channel in enumerate(block):
        samples[:, number] = channel
    return samples


def _zeros(channels: int, samples: int, size: int) -> Iterator[np.ndarray]:
    while samples:
        yield np.zeros((channels, min(samples, size)), np.float32)
        samples -= min(samples, size)


def _without(blocks: Iterable[np.ndarray], skip: int) -> Iterator[np.ndarray]:
    """The blocks without their first `skip` samples."""
    for block in blocks:
        cut = min(skip, block.shape[1])
        skip -= cut
        if cut < block.shape[1]:
            yield block[:, cut:]


def batched(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same sound in fewer blocks, of at least `size` samples each but the last."""
    batch: list[np.ndarray] = []
    held = 0
    for block in blocks:
        batch.append(block)
        held += block.shape[1]
        if held >= size:
            yield batch[0] if len(batch) == 1 else np.concatenate(batch, axis=1)
            batch, held = [], 0
    if batch:
        yield np.concatenate(batch, axis=1)


class Resampler:
    """libswresample over a stream of [channels, n] blocks, from one rate to another."""

    def __init__(self, rate: int, new_rate: int, channels: int) -> None:
        self._rate, self._channels = rate, channels
        self._layout = "mono" if channels == 1 else "stereo"
        self._resampler = av.AudioResampler("fltp", rate=new_rate)

    def push(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """What the next block gives."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        yield from (part.to_ndarray() for part in self._resampler.resample(frame))

    def end(self) -> Iterator[np.ndarray]:
        """What its filter holds back; 0.1 s of zeros behind it push that out."""
        yield from self.push(np.zeros((self._channels, max(1, self._rate // 10)), np.float32))
        yield from (part.to_ndarray() for part in self._resampler.resample(None))


def resampled(blocks: Iterable[np.ndarray], rate: int, new_rate: int, channels: int) -> Iterator[np.ndarray]:
    """All blocks at another rate, and some zeros behind them."""
    resampler = Resampler(rate, new_rate, channels)
    for block in blocks:
        yield from resampler.push(block)
    yield from resampler.end()


def exactly(blocks: Iterable[np.ndarray], total: int, size: int) -> Iterator[np.ndarray]:
    """The stream cut, or padded with zeros in blocks of `size`, to `total` samples."""
    rest, channels = total, 1
    for block in blocks:
        channels = len(block)
        yield block[:, :rest]
        rest -= min(rest, block.shape[1])
        if not rest:
            return
    yield from _zeros(channels, rest, size)
