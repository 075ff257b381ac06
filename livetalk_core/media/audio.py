"""Sound of any length, decoded as it is read.

A source is surveyed once when it is opened (length, damage, fingerprint, loudness) and then read window by window.
Every read comes from one sequential decode from the beginning, so what a window holds never depends on what was read
before; the last 30 seconds are kept, and going back further starts again. Memory does not grow with the length.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from ..errors import InputError
from ..shapes import SAMPLE_RATE
from . import ogg
from .blocks import Blocks, batched, exactly, resampled
from .channels import stereo_matrix, to_mono
from .containers import checked, reading, tags_before
from .decoding import Choice, choices, decoded, track
from .joined import recordings
from .survey import Moments, Progress, Statistics, Survey
from .timeline import Report, Silence, Timeline, Trimmed
from .track import Track
from .wav import Part, wav_parts

KEEP_SECONDS = 30
LEAST_RATE, MOST_RATE = 1_000, 768_000
"""Sample rates that are read, in Hz: a resampler for what a header may claim beyond takes gigabytes."""
LEAST_READABLE = 0.1
"""Part of a recording that must be readable."""
CANCELLED_SECONDS = 0.2
"""From so many seconds on it is said that the channels cancel each other."""


class AudioSource(ABC):
    """A sound: `samples` per channel at its native `sample_rate`, in `channels`; `fingerprint` identifies them.

    `notes` are lines for the user: what was damaged, missing or chosen. A subclass sets `sample_rate` and `channels`,
    gives the samples through `_blocks`, then calls `_survey`.
    """

    sample_rate: int
    channels: int
    samples: int
    fingerprint: str
    channel_names: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def _blocks(self) -> Iterator[np.ndarray]:
        """The sound from its beginning: float32 [channels, any number]."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    def read(self, start: int, count: int, sample_rate: int, mono: bool) -> np.ndarray:
        """Samples [start, start + count) at `sample_rate`: float32 [channels, count], zeros beyond the end.

        Mono is the mean of all channels (see `channels.to_mono`); otherwise more than two are mixed to stereo.
        """
        key = (sample_rate, mono)
        if key not in self._tracks:
            channels = 1 if mono else min(2, self.channels)
            self._tracks[key] = Track(lambda: self._resampled(*key), channels, KEEP_SECONDS * sample_rate)
        return self._tracks[key].read(start, count)

    def statistics(self, total: int) -> Statistics:
        """Loudness and moments of the 16 kHz mono sound, cut or padded with zeros to `total` samples."""
        if total not in self._statistics:
            self._statistics[total] = self._measured(total)
        return self._statistics[total]

    def reader(self) -> "AudioSource":
        """The same sound, read independently of this one and without another survey."""
        other = copy.copy(self)
        other._tracks = {}
        return other

    def _measured(self, total: int) -> Statistics:
        if total >= self._moments.count:
            return self._moments.statistics(total)
        moments = Moments()
        for block in exactly(self._resampled(SAMPLE_RATE, True), total, SAMPLE_RATE):
            moments.add(block)
        return moments.statistics(total)

    def _survey(self, name: str, seconds: float | None = None, progress: Progress | None = None) -> None:
        """Read everything once: count, refuse what is empty or not finite, take the fingerprint, measure."""
        if not LEAST_RATE <= self.sample_rate <= MOST_RATE:
            raise InputError(
                f"sound of {name} has {self.sample_rate} Hz; {LEAST_RATE} to {MOST_RATE} Hz are read: convert it to "
                "48 kHz first"
            )
        survey = Survey(name, self.sample_rate, self.channels, self.channel_names)
        survey.take(self._blocks(), seconds, progress)
        self.samples, self.fingerprint = survey.samples, survey.fingerprint
        self._moments, self._peak = survey.moments, survey.peak
        self._tracks: dict[tuple[int, bool], Track] = {}
        self._statistics: dict[int, Statistics] = {}
        if survey.cancelled >= CANCELLED_SECONDS:
            self.notes += (
                f"sound of {name}: its channels cancel each other (out of phase) for {survey.cancelled:.1f} s; the "
                "lips follow one of them there",
            )

    def _resampled(self, sample_rate: int, mono: bool) -> Iterator[np.ndarray]:
        """The mixed sound at another rate, its length rounded up."""
        blocks = batched(self._blocks(), self.sample_rate)
        matrix = stereo_matrix(self.channels, self.channel_names) / np.float32(self._peak)
        mixed = (to_mono(block).sound if mono else matrix @ block for block in blocks)
        if sample_rate == self.sample_rate:
            return mixed
        total = -(-self.samples * sample_rate // self.sample_rate)
        channels = 1 if mono else len(matrix)
        return exactly(resampled(mixed, self.sample_rate, sample_rate, channels), total, SAMPLE_RATE)


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
    """A sound track of a media file; see `open_audio`."""

    def __init__(self, path: Path | str, progress: Progress | None = None) -> None:
        self._path = checked(Path(path))
        with reading(self._path):
            self._stamp = _stamp(self._path)
            self._parts = _parts(self._path)
            choice, self._like = _first_decodable(self._path, self._parts[0])
        self._index = choice.index
        self.sample_rate, self.channels = self._like.sample_rate, self._like.layout.nb_channels
        self.channel_names = [channel.name for channel in self._like.layout.channels]
        self._report = Report()
        self._survey(self._path.name, choice.seconds, progress)
        self._judge(choice.note)

    def _judge(self, choice: str) -> None:
        """Refuse where little could be read; say what is to be known of the rest."""
        report = self._report
        if report.read < LEAST_READABLE * (report.read + report.unreadable):
            raise InputError(
                f"sound {self._path} is damaged or cut off: of {report.read + report.unreadable:.1f} s only "
                f"{report.read:.1f} s can be read; a whole media file is needed: copy or download it again"
            )
        lines = [choice] if choice else []
        if len(self._parts) > 1:
            lines.append(f"{len(self._parts)} recordings one behind the other, read as one")
        lines += report.notes(self.seconds)
        self.notes += tuple(f"sound of {self._path.name}: {line}" for line in lines)

    def _blocks(self) -> Iterator[np.ndarray]:
        self._report = Report()
        for block in Blocks(self._like).of(self._laid_out(self._report)):
            self._check_unchanged()
            yield block
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        """Raise `InputError` where the file does not hold the sound any more that was surveyed."""
        try:
            stamp = _stamp(self._path)
        except OSError:  # it is read on as long as it is open
            return
        if stamp == self._stamp:
            return
        if not hasattr(self, "fingerprint") or FileAudio(self._path).fingerprint != self.fingerprint:
            raise InputError(
                f"sound {self._path} changes while it is read, and would be heard as parts of two recordings; one that "
                "stays as it is is needed: wait until it is written, or write the other one under another name"
            )
        self._stamp = stamp

    def _laid_out(self, report: Report) -> Iterator[av.AudioFrame | Silence | Trimmed]:
        for number, part in enumerate(self._parts):
            try:
                index = self._index if number == 0 else choices(self._path, part)[0].index
                with reading(self._path), track(self._path, part, index) as opened:
                    timeline = Timeline(opened, report)
                    yield from timeline.lay_out(decoded(self._path, opened))
            except InputError:
                if number == 0:
                    raise
                report.cut_off = True


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file; numbers of files do by themselves on some that lie on other machines."""
    now = path.stat()
    return now.st_size, now.st_mtime_ns


def _parts(path: Path) -> list[Part | None]:
    """What to read one behind the other: the recordings in a file, or None for the file as it is."""
    start, links = tags_before(path), ogg.links(path)
    parts = wav_parts(path, start) or [Part(link.start, link.stop) for link in links] or recordings(path, start)
    plain = not parts or parts == [Part(0, path.stat().st_size)]
    return [None] if plain else list(parts)


def _first_decodable(path: Path, part: Part | None) -> tuple[Choice, av.AudioFrame]:
    """The track to read, the best that gives sound at all, with its first frame."""
    error: InputError | None = None
    for choice in choices(path, part):
        try:
            with track(path, part, choice.index) as opened:
                frames = (item for item in decoded(path, opened) if isinstance(item, av.AudioFrame))
                return choice, next(frames)
        except InputError as why:
            error = error or why
    assert error is not None
    raise error


def open_audio(path: Path | str, progress: Progress | None = None) -> AudioSource:
    """Open the best sound track of a media file and survey it; `progress` hears how far that is.

    What is damaged or missing becomes silence of its length, and `notes` say so. `InputError` for what is missing,
    empty, damaged beyond use, has no sound, or only names other media (a playlist, a URL, an HTML page).
    """
    return FileAudio(path, progress)
