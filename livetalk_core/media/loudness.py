"""Integrated loudness of ITU-R BS.1770-4, measured as the sound streams by.

Gives what `pyloudnorm.Meter(rate).integrated_loudness` gives for the whole array, whose filters and block edges
it uses, but keeps only one number per 0.1 s.
"""

import math
from array import array

import numpy as np
from pyloudnorm.iirfilter import IIRfilter
from scipy.signal import lfilter

from ..shapes import SAMPLE_RATE

BLOCK_SECONDS = 0.4
STEP = 0.25
"""Distance between two blocks, as a part of a block."""
OFFSET = -0.691
ABSOLUTE_GATE = -70.0
RELATIVE_GATE = -10.0


class LoudnessMeter:
    """Loudness of a mono sound that is given piece by piece."""

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        shelf = IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, sample_rate, "high_shelf")
        high_pass = IIRfilter(0.0, 0.5, 38.0, sample_rate, "high_pass")
        self._filters = [(stage.b, stage.a) for stage in (shelf, high_pass)]
        self._memory = [np.zeros(2) for _ in self._filters]
        self._rate = sample_rate
        self._samples = 0
        self._powers = array("d")
        self._squares = np.zeros(0)
        self._squares_start = 0

    def add(self, sound: np.ndarray) -> None:
        """Take the next samples, [n] in -1..1."""
        weighted = sound.astype(np.float64)
        for stage, (numerator, denominator) in enumerate(self._filters):
            weighted, self._memory[stage] = lfilter(numerator, denominator, weighted, zi=self._memory[stage])
        self._squares = np.concatenate([self._squares, np.square(weighted)])
        self._samples += len(sound)
        while self._edges(len(self._powers))[1] <= self._samples:
            self._powers.append(self._power(len(self._powers)))
        self._forget(self._edges(len(self._powers))[0])

    def loudness(self) -> float:
        """Loudness of everything added so far, in LUFS; -inf for silence.

        Less than one block (0.4 s) is measured as if zeros followed. Add nothing afterwards.
        """
        missing = math.ceil(BLOCK_SECONDS * self._rate) - self._samples
        if missing > 0:
            self.add(np.zeros(missing))
        seconds = self._samples / self._rate
        blocks = int(np.round((seconds - BLOCK_SECONDS) / (BLOCK_SECONDS * STEP))) + 1
        last = [self._power(blocks - 1)] if blocks > len(self._powers) else []
        return _gated(np.array([*self._powers[:blocks], *last]))

    def _edges(self, block: int) -> tuple[int, int]:
        """First and past-the-last sample of a block, rounded as pyloudnorm rounds them."""
        start = BLOCK_SECONDS * (block * STEP) * self._rate
        return int(start), int(BLOCK_SECONDS * (block * STEP + 1) * self._rate)

    def _power(self, block: int) -> float:
        start, stop = (edge - self._squares_start for edge in self._edges(block))
        return float(np.sum(self._squares[start:stop])) / (BLOCK_SECONDS * self._rate)

    def _forget(self, before: int) -> None:
        self._squares = self._squares[max(0, before - self._squares_start) :].copy()
        self._squares_start = before


def _gated(powers: np.ndarray) -> float:
    """Loudness of the blocks that pass both gates (BS.1770-4, equations 5 to 7)."""
    with np.errstate(divide="ignore"):
        loudness = OFFSET + 10 * np.log10(powers)
    audible = powers[loudness >= ABSOLUTE_GATE]
    if not len(audible):
        return -math.inf
    gate = max(ABSOLUTE_GATE, OFFSET + 10 * math.log10(audible.mean()) + RELATIVE_GATE)
    foreground = powers[loudness > gate]
    return OFFSET + 10 * math.log10(foreground.mean()) if len(foreground) else -math.inf


def integrated_loudness(sound: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Integrated loudness of a mono sound [n] in LUFS; -inf for silence."""
    meter = LoudnessMeter(sample_rate)
    meter.add(sound)
    return meter.loudness()


def gain_to(lufs: float | None, loudness: float) -> float:
    """Factor that brings a sound of `loudness` to `lufs`; 1 for silence, and where it is left as loud as it is."""
    return 1.0 if lufs is None or not math.isfinite(loudness) else 10 ** ((lufs - loudness) / 20)
