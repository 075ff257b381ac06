"""Mel-frequency cepstral coefficients as SyncNet hears them: those of the package python_speech_features by default."""

import numpy as np
from scipy.fft import dct

from ....shapes import SAMPLE_RATE

WINDOW, STEP = SAMPLE_RATE // 40, SAMPLE_RATE // 100
"""Samples of 25 and 10 ms."""
TRANSFORM, FILTERS, COEFFICIENTS = 512, 26, 13
PREEMPHASIS, LIFTER = 0.97, 22
LEAST = np.finfo(float).eps


def mfcc(sound_S: np.ndarray) -> np.ndarray:
    """16 kHz sound in the range of 16 bit -> [frames, 13], 100 frames a second; the first coefficient is the energy."""
    emphasised = np.append(sound_S[:1], sound_S[1:] - PREEMPHASIS * sound_S[:-1]).astype(float)
    count = 1 + max(0, -(-(len(emphasised) - WINDOW) // STEP))
    padded = np.pad(emphasised, (0, max(0, (count - 1) * STEP + WINDOW - len(emphasised))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP][:count]
    power = np.abs(np.fft.rfft(frames, TRANSFORM)) ** 2 / TRANSFORM
    energy = np.maximum(power.sum(1), LEAST)
    bands = np.log(np.maximum(power @ _filters().T, LEAST))
    cepstrum = np.asarray(dct(bands, type=2, axis=1, norm="ortho"))[:, :COEFFICIENTS]
    cepstrum *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstrum[:, 0] = np.log(energy)
    return cepstrum


def _filters() -> np.ndarray:
    """Triangles that are even on the mel scale: [filters, bins]."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    edges = np.floor((TRANSFORM + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(TRANSFORM // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    # A filter's peak belongs to the falling side, which begins with 1 there.
    return np.where(bins < edges[1:-1, None], np.clip(rising, 0, 1), np.clip(falling, 0, 1))
