"""Sound of any length, decoded as it is read.

A source is surveyed once when it is opened (length, damage, fingerprint) and then read window by window. Every
read comes from one sequential decode from the beginning, so what a window holds never depends on what was read
before; the last 30 seconds are kept, and going back further starts again. Memory does not grow with the length.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from torch import Tensor

from ..errors import InputError
from ..files import check_readable
from ..shapes import SAMPLE_RATE
from .loudness import LoudnessMeter

KEEP_SECONDS = 30
LEAST_RATE, MOST_RATE = 1_000, 768_000
"""Sample rates that are read, in Hz: a resampler for what a header may claim beyond takes gigabytes."""
# Containers that hold their own data. Playlists and scripts (hls, dash, concat, sdp ...) name other files and URLs.
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,"
    "mpeg,mpegts,ogg,tak,tta,voc,w64,wav,wv"
)
WHITELIST = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
# A RIFF header claims its file's length, except where a writer did not know it (0, or near 2 or 4 GiB).
UNKNOWN_RIFF_SIZE = 0x7FFF_0000
RIFF_SLACK = 4096


class Statistics(NamedTuple):
    """What one pass over the 16 kHz mono sound measures: LUFS (-inf for silence), mean, population variance."""

    loudness: float
    mean: float
    variance: float


class AudioSource(ABC):
    """A sound: `samples` per channel at its native `sample_rate`, in `channels`; `fingerprint` identifies them.

    A subclass sets `sample_rate` and `channels`, gives the samples through `_blocks`, then calls `_survey`.
    """

    sample_rate: int
    channels: int
    samples: int
    fingerprint: str
    channel_names: Sequence[str] = ()

    @abstractmethod
    def _blocks(self) -> Iterator[np.ndarray]:
        """The sound from its beginning: float32 [channels, any number]."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    def read(self, start: int, count: int, sample_rate: int, mono: bool) -> np.ndarray:
        """Samples [start, start + count) at `sample_rate`: float32 [channels, count], zeros beyond the end.

        Mono is the mean of all channels; otherwise more than two are mixed to stereo.
        """
        key = (sample_rate, mono)
        if key not in self._tracks:
            channels = 1 if mono else min(2, self.channels)
            self._tracks[key] = _Track(lambda: self._resampled(*key), channels, KEEP_SECONDS * sample_rate)
        return self._tracks[key].read(start, count)

    def statistics(self, total: int) -> Statistics:
        """Loudness and moments of the 16 kHz mono sound, cut or padded with zeros to `total` samples."""
        if total not in self._statistics:
            self._statistics[total] = _measure(_exactly(self._resampled(SAMPLE_RATE, True), total))
        return self._statistics[total]

    def _survey(self, name: str) -> None:
        """Read everything once: count, refuse what is empty or not finite, and take the fingerprint."""
        if not LEAST_RATE <= self.sample_rate <= MOST_RATE:
            raise InputError(
                f"sound of {name} has {self.sample_rate} Hz; {LEAST_RATE} to {MOST_RATE} Hz are read: convert it to "
                "48 kHz first"
            )
        digest = hashlib.sha256(f"{self.sample_rate} Hz, {self.channels} channels, ".encode())
        self.samples = 0
        self._tracks: dict[tuple[int, bool], _Track] = {}
        self._statistics: dict[int, Statistics] = {}
        for block in self._blocks():
            if not np.isfinite(block).all():
                raise InputError(
                    f"sound of {name} holds NaN or infinite samples after {self.seconds:.1f} s; finite ones are "
                    "needed: export it again, as 16-bit WAV for instance"
                )
            digest.update(np.ascontiguousarray(block.T, "<f4").data)
            self.samples += block.shape[1]
        if not self.samples:
            raise InputError(f"sound of {name} has no samples; at least one is needed: choose a recording with sound")
        self.fingerprint = digest.hexdigest()

    def _resampled(self, sample_rate: int, mono: bool) -> Iterator[np.ndarray]:
        """The mixed sound at another rate, its length rounded up."""
        mix = _mix(self.channels, self.channel_names, mono)
        mixed = (mix @ block for block in _batched(self._blocks(), self.sample_rate))
        if sample_rate == self.sample_rate:
            return mixed
        total = -(-self.samples * sample_rate // self.sample_rate)
        return _exactly(_resample(mixed, self.sample_rate, sample_rate, len(mix)), total)


class TensorAudio(AudioSource):
    """Sound in memory: waveform [channels, samples] float in -1..1, as in ComfyUI's AUDIO."""

    def __init__(self, waveform: Tensor, sample_rate: int) -> None:
        if waveform.ndim != 2 or not len(waveform):
            raise InputError(
                f"sound of shape {list(waveform.shape)}; [channels, samples] is needed: pass one sound at a time"
            )
        self._waveform = waveform.detach().float().cpu().numpy()
        self.sample_rate, self.channels = sample_rate, len(waveform)
        self._survey("the AUDIO input")

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, self._waveform.shape[1], self.sample_rate):
            yield self._waveform[:, start : start + self.sample_rate]


class FileAudio(AudioSource):
    """The first sound stream of a media file."""

    def __init__(self, path: Path | str) -> None:
        self._path = _checked(Path(path))
        first = next(_frames(self._path), None)
        if first is None:
            raise InputError(f"sound of {path} has no samples; at least one is needed: choose a recording with sound")
        self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
        self.channel_names = [channel.name for channel in first.layout.channels]
        self._survey(self._path.name)

    def _blocks(self) -> Iterator[np.ndarray]:
        for frame in _frames(self._path):
            if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                raise InputError(
                    f"sound of {self._path.name} changes from {self.sample_rate} Hz, {self.channels} channels to "
                    f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels; it must stay the same: "
                    "convert it to WAV first"
                )
            yield _samples(frame)


def open_audio(path: Path | str) -> AudioSource:
    """Open the first sound stream of a media file and survey it.

    `InputError` for what is missing, empty, damaged or cut off, has no sound, or only names other media (a
    playlist, a URL, an HTML page).
    """
    return FileAudio(path)


class _Track:
    """One sequential stream of sound, read forwards; up to `keep` samples behind the newest are still there."""

    def __init__(self, start: Callable[[], Iterator[np.ndarray]], channels: int, keep: int) -> None:
        self._start, self._channels, self._keep = start, channels, keep
        self._restart()

    def read(self, start: int, count: int) -> np.ndarray:
        """[channels, count] from sample `start`, zeros beyond the end."""
        if start < self._first:
            self._restart()
        while self._end < start + count and (block := next(self._stream, None)) is not None:
            self._kept.append(block)
            self._end += block.shape[1]
            self._drop(min(start, self._end - self._keep))
        window = np.zeros((self._channels, count), np.float32)
        position = self._first
        for block in self._kept:
            _overlay(window, block, position - start)
            position += block.shape[1]
        return window

    def _restart(self) -> None:
        self._stream = self._start()
        self._kept: deque[np.ndarray] = deque()
        self._first = self._end = 0

    def _drop(self, before: int) -> None:
        while self._kept and self._first + self._kept[0].shape[1] <= before:
            self._first += self._kept.popleft().shape[1]


def _overlay(window: np.ndarray, block: np.ndarray, offset: int) -> None:
    """Copy what of `block`, placed at `offset`, falls inside `window`."""
    start, stop = max(0, offset), min(window.shape[1], offset + block.shape[1])
    if start < stop:
        window[:, start:stop] = block[:, start - offset : stop - offset]


def _checked(path: Path) -> Path:
    """The resolved path of a regular file that holds something."""
    check_readable(path, "sound", "a media file on this machine", InputError)
    size = path.stat().st_size
    head = _head(path)
    claimed = int.from_bytes(head[4:8], "little") if head.startswith(b"RIFF") else 0
    if not size or size + RIFF_SLACK < claimed < UNKNOWN_RIFF_SIZE:
        found = f"is cut off: it holds {size} of {claimed} bytes" if size else "is empty"
        raise InputError(f"sound {path} {found}; a whole media file is needed: copy or download it again")
    return path.resolve()


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise InputError(f"sound {path} cannot be opened ({error.strerror}); check that you may read it") from error


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """FFmpeg's errors as `InputError`."""
    try:
        yield
    except FFmpegError as error:
        reason = _text_start(path) or f"damaged, cut off or of another kind ({error.strerror})"
        raise InputError(
            f"sound {path} is {reason}; a whole audio or video file is needed: get a new copy, or convert it to WAV"
        ) from error


def _text_start(path: Path) -> str:
    """How a text file in place of a recording begins: HTML, a playlist, a script."""
    first = _head(path).split(b"\n")[0].decode("ascii", "replace").strip()
    return f"a text file that begins with {first!r}" if first.isprintable() and first.isascii() and first else ""


def _frames(path: Path) -> Iterator[av.AudioFrame]:
    """Decoded frames of the first sound stream, from the beginning."""
    with _decoding(path), av.open(str(path), container_options=WHITELIST, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound; a file with an audio stream is needed: choose another")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise InputError(f"sound of {path} has an unknown coding; convert it to WAV first")
        yield from container.decode(stream)


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """float32 [channels, samples] in -1..1 from a frame of any sample format."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a 64-bit sample beyond float32 becomes inf, which the survey refuses
            return data.astype(np.float32)
    half = 2.0 ** (8 * data.itemsize - 1)
    return ((data - half if data.dtype.kind == "u" else data) / half).astype(np.float32)


def _batched(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same sound in fewer blocks, of at least `size` samples each but the last."""
    batch: list[np.ndarray] = []
    held = 0
    for block in blocks:
        batch.append(block)
        held += block.shape[1]
        if held >= size:
            yield np.concatenate(batch, axis=1)
            batch, held = [], 0
    if batch:
        yield np.concatenate(batch, axis=1)


def _mix(channels: int, names: Sequence[str], mono: bool) -> np.ndarray:
    """Matrix [out, channels] that mixes to mono (the mean), or keeps up to two channels and mixes more to stereo."""
    if mono:
        return np.full((1, channels), 1 / channels, np.float32)
    if channels <= 2:
        return np.eye(channels, dtype=np.float32)
    weights = np.array([_left_right(name) for name in names or ["FC"] * channels], np.float32).T
    sums = weights.sum(axis=1, keepdims=True)
    return weights / sums if sums.all() else np.full((2, channels), 1 / channels, np.float32)


def _left_right(name: str) -> tuple[float, float]:
    """Weights of a channel, by FFmpeg's name for it, in a stereo mix: ITU-R BS.775, bass channel left out."""
    if name.startswith("LFE"):
        return 0.0, 0.0
    if name.startswith("US") or ("L" in name) == ("R" in name):
        return 0.5**0.5, 0.5**0.5
    return (1.0, 0.0) if "L" in name else (0.0, 1.0)


def _resample(blocks: Iterable[np.ndarray], rate: int, new_rate: int, channels: int) -> Iterator[np.ndarray]:
    """libswresample over a stream; 0.1 s of zeros behind it push out what its filter holds back."""
    resampler = av.AudioResampler(format="fltp", rate=new_rate)
    tail = np.zeros((channels, max(1, rate // 10)), np.float32)
    for block in chain(blocks, [tail]):
        layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
        frame.sample_rate = rate
        yield from (part.to_ndarray() for part in resampler.resample(frame))
    yield from (part.to_ndarray() for part in resampler.resample(None))


def _exactly(blocks: Iterable[np.ndarray], total: int) -> Iterator[np.ndarray]:
    """The stream cut, or padded with zeros, to `total` samples."""
    rest, channels = total, 1
    for block in blocks:
        channels = len(block)
        yield block[:, :rest]
        rest -= min(rest, block.shape[1])
        if not rest:
            return
    while rest:
        yield np.zeros((channels, min(rest, SAMPLE_RATE)), np.float32)
        rest -= min(rest, SAMPLE_RATE)


def _measure(blocks: Iterable[np.ndarray]) -> Statistics:
    """Loudness, mean and variance of a mono stream [1, n]; moments merged as Chan et al. (1979) do."""
    meter = LoudnessMeter()
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        sound = block[0].astype(np.float64)
        meter.add(sound)
        size, change = len(sound), float(sound.mean()) - mean
        squares += float(sound.var()) * size + change**2 * count * size / (count + size)
        mean += change * size / (count + size)
        count += size
    return Statistics(meter.loudness(), mean, squares / count)
