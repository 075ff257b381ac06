"""Where one recording lies against another, window by window, by cross-correlation."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .sounds import RATE, ffmpeg

WINDOW, HOP = round(0.4 * RATE), round(0.1 * RATE)
REACH = round(0.15 * RATE)
"""Samples by which a window may be early or late and still be found."""
AUDIBLE = 10 ** (-30 / 20)
"""Level of a window, against the loudest, from which on it is compared."""
ALIKE = 0.7
"""Correlation from which on a window is the same sound."""
NOTHING = 1e-4
MOST_NOTHING = 0.05
"""A sample that is nothing, and the part of a window, above the truth's own, from which on it counts as not the same:
in what is left beside silence, a voice is like itself at many lags."""


class Alignment(NamedTuple):
    """How a recording lies against another: the largest lag of a window that is alike, and how many are alike."""

    milliseconds: float
    alike: int
    windows: int


def decode(path: Path, timed: bool = False, track: int = 0) -> np.ndarray:
    """A track of a file as ffmpeg hears it: mono at `RATE`; `timed`: holes and late starts as silence."""
    chosen = ["-map", f"0:a:{track}"]
    filters = ["-af", "aresample=async=1:min_hard_comp=0.01"] if timed else []
    probe = ffmpeg("-i", path, *chosen, "-frames:a", "1", "-f", "wav", "-")
    channels = int.from_bytes(probe[22:24], "little")
    data = ffmpeg("-i", path, *chosen, *filters, "-ar", str(RATE), "-c:a", "pcm_f32le", "-f", "f32le", "-")
    sound = np.frombuffer(data, np.float32).reshape(-1, channels).T
    return np.pad(_mono(sound), (_late(path) if timed else 0, 0))


def _late(path: Path) -> int:
    """Samples by which the first sound that is decoded begins after the file does."""
    probe = ["ffprobe", "-v", "error", "-of", "json"]
    streams = _json([*probe, "-show_entries", "stream=start_time", path])["streams"]
    frames = _json([*probe, "-select_streams", "a", "-read_intervals", "%+1", "-show_frames", path])["frames"]
    start = min(float(stream["start_time"]) for stream in streams)
    return round((float(frames[0]["pts_time"]) - start) * RATE)


def _json(command: list[Any]) -> dict[str, Any]:
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def _mono(sound: np.ndarray) -> np.ndarray:
    """The mean of all channels, or the first of the loud ones where they cancel each other."""
    mean, energies = sound.mean(axis=0), np.square(sound).sum(axis=1)
    first = sound[np.argmax(energies > 0.5 * energies.max())]
    return first if np.square(mean).sum() < 0.05 * energies.max() else mean


def align(sound: np.ndarray, truth: np.ndarray) -> Alignment:
    """Compare `sound` with `truth` where the latter is audible; what is shorter than a window is not compared."""
    lags, windows = [], 0
    padded = np.pad(sound, (REACH, REACH + max(0, len(truth) - len(sound))))
    if len(truth) < WINDOW:
        return Alignment(0.0, 0, 0)
    levels = [np.sqrt(np.mean(truth[at : at + WINDOW] ** 2)) for at in range(0, max(1, len(truth) - WINDOW), HOP)]
    for number, level in enumerate(levels):
        if level > AUDIBLE * max(levels):
            windows += 1
            start = number * HOP
            window, around = truth[start : start + WINDOW], padded[start : start + WINDOW + 2 * REACH]
            lag, likeness = _lag(around, window)
            empty = _nothing(around[REACH : REACH + WINDOW]) - _nothing(window) > MOST_NOTHING
            lags += [lag] if likeness > ALIKE and not empty else []
    return Alignment(max(map(abs, lags), default=0.0) * 1000 / RATE, len(lags), windows)


def _nothing(sound: np.ndarray) -> float:
    """Which part of it is silence."""
    return float(np.mean(np.abs(sound) < NOTHING))


def _lag(sound: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Samples by which the window is late in `sound`, which begins `REACH` before it; and its correlation there."""
    size = len(sound) + len(window)
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(window, size)), size)
    energy = np.cumsum(np.concatenate([[0.0], np.square(sound, dtype=np.float64)]))
    span = energy[len(window) :] - energy[: -len(window)]
    likeness = products[: len(span)] / np.sqrt(np.maximum(span, 1e-12) * np.square(window, dtype=np.float64).sum())
    best = int(np.argmax(likeness))
    return best - REACH, float(likeness[best])
