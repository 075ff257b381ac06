"""The one pass over a sound that is made when it is opened: length, fingerprint, damage, loudness and moments."""

import copy
import hashlib
from collections.abc import Callable, Iterable
from math import isfinite
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..shapes import SAMPLE_RATE, heard_samples
from .blocks import Resampler, batched, exactly, interleaved
from .channels import stereo_matrix, to_mono
from .loudness import LoudnessMeter

LOUDEST = 1000.0
"""What samples may be, 60 dB above full scale: whole numbers in a file of floating-point ones are beyond."""
Progress = Callable[[float], None]
"""Told about once per second of sound the share that is surveyed, 0 to 1; never where the file gives no length."""


class Statistics(NamedTuple):
    """What is measured of 16 kHz mono sound: LUFS (-inf for silence), mean, population variance."""

    loudness: float
    mean: float
    variance: float


class Moments:
    """Loudness, mean and variance of a mono stream [1, n]; moments merged as Chan et al. (1979) do."""

    def __init__(self) -> None:
        self._meter = LoudnessMeter()
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, block: np.ndarray) -> None:
        """Take the next samples."""
        sound = block[0].astype(np.float64)
        self._meter.add(sound)
        size, change = len(sound), float(sound.mean()) - self._mean
        self._squares += float(sound.var()) * size + change**2 * self.count * size / (self.count + size)
        self._mean += change * size / (self.count + size)
        self.count += size

    def statistics(self, total: int) -> Statistics:
        """What was added, with zeros behind it up to `total` samples, not fewer than were added."""
        padded = copy.deepcopy(self)
        for zeros in exactly((), total - self.count, SAMPLE_RATE):
            padded.add(zeros)
        return Statistics(padded._meter.loudness(), padded._mean, padded._squares / padded.count)


class Survey:
    """Takes all of a sound, block by block, and then says what it is.

    `samples` per channel; `moments` of its 16 kHz mono; `peak` of its stereo mix, at least 1; `cancelled`, seconds in
    which the channels cancel each other.
    """

    def __init__(self, name: str, rate: int, channels: int, channel_names: Iterable[str]) -> None:
        self._name, self._rate = name, rate
        self._digest = hashlib.sha256(f"{rate} Hz, {channels} channels, ".encode())
        self._resampler = Resampler(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
        self._stereo = stereo_matrix(channels, tuple(channel_names)) if channels > 2 else None
        self.samples, self.peak, self.cancelled = 0, 1.0, 0.0
        self.moments = Moments()

    def take(self, blocks: Iterable[np.ndarray], seconds: float | None, progress: Progress | None) -> None:
        """All blocks, in batches of about a second. `InputError` where one is not finite, or there is none."""
        for block in batched(blocks, self._rate):
            self._add(block)
            if progress and seconds:
                progress(min(1.0, self.samples / self._rate / seconds))
        if not self.samples:
            raise InputError(
                f"sound of {self._name} has no samples; at least one is needed: choose a recording with sound"
            )
        if self._resampler:
            self._measure(self._resampler.end())

    @property
    def fingerprint(self) -> str:
        """Identifies rate, channels and samples."""
        return self._digest.hexdigest()

    def _add(self, block: np.ndarray) -> None:
        largest = max(float(block.max()), -float(block.min()))
        if not largest <= LOUDEST:  # NaN is not, either
            fault = (
                "NaN or infinite samples" if not isfinite(largest) else f"samples of {largest:.3g}, full scale being 1,"
            )
            raise InputError(
                f"sound of {self._name} holds {fault} after {self.samples / self._rate:.1f} s; finite ones, from -1 to "
                "1, are needed: export it again, as 16-bit WAV for instance"
            )
        self._digest.update(interleaved(block).data)
        self.samples += block.shape[1]
        if self._stereo is not None:
            self.peak = max(self.peak, float(np.abs(self._stereo @ block).max()))
        mono, cancelled = to_mono(block)
        self.cancelled += cancelled * block.shape[1] / self._rate
        self._measure(self._resampler.push(mono) if self._resampler else [mono])

    def _measure(self, parts: Iterable[np.ndarray]) -> None:
        """As much of the parts as belongs to the sound so far."""
        total = heard_samples(self.samples, self._rate)
        for part in parts:
            if kept := min(part.shape[1], total - self.moments.count):
                self.moments.add(part[:, :kept])
