"""Many channels mixed to one or two.

C channels, n samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CANCELLED = 0.25
"""Energy of the sum of all channels, against the loudest's, below which they cancel each other."""
MINUS_3_DB = 0.5**0.5
SPEAKERS = {
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR",
    "DL", "DR", "WL", "WR", "SDL", "SDR", "LFE2", "TSL", "TSR", "BFC", "BFL", "BFR",
}  # fmt: skip
"""FFmpeg's names for places of loudspeakers; other channels (unnamed, ambisonic) are none."""
LOUDER = 2.0
"""Energy by which a later channel must exceed the first to be taken in its place."""


class Mono(NamedTuple):
    """One channel made of several, [1, n], and whether these cancel each other."""

    sound: np.ndarray
    cancelled: bool


def to_mono(sound_Cn: np.ndarray) -> Mono:
    """The mean of all channels; where they cancel each other (a wrong cable: right = -left), the loudest.

    They do where their sum is far below the loudest of them. Elsewhere the numbers are those of
    `mean_matrix(C) @ sound`.
    """
    products = sound_Cn @ sound_Cn.T
    energies = np.diagonal(products)
    if float(products.sum()) < CANCELLED * energies.max():
        loudest = int(np.argmax(energies))
        chosen = 0 if energies[loudest] < LOUDER * energies[0] else loudest
        return Mono(sound_Cn[chosen : chosen + 1], True)
    return Mono(mean_matrix(len(sound_Cn)) @ sound_Cn, False)


def mean_matrix(channels: int) -> np.ndarray:
    """[1, C] that takes the mean."""
    return np.full((1, channels), 1 / channels, np.float32)


def stereo_matrix(channels: int, names: Sequence[str]) -> np.ndarray:
    """[2, C] that mixes to stereo, or [C, C] that keeps up to two channels. `names` are FFmpeg's, or none."""
    if channels <= 2:
        return np.eye(channels, dtype=np.float32)
    weights = np.array([left_right(name) for name in names], np.float32).reshape(-1, 2).T
    named = len(names) == channels and all(name in SPEAKERS for name in names)
    return weights if named and weights.any(axis=1).all() else np.repeat(mean_matrix(channels), 2, axis=0)


def left_right(name: str) -> tuple[float, float]:
    """Weights of a channel, by FFmpeg's name for it, in a stereo mix.

    ITU-R BS.775-3, annex 4: front channels whole, the centre and what is behind, beside or above 3 dB down; one that
    is both, 6 dB; the bass channel left out.
    """
    if name.startswith("LFE"):
        return 0.0, 0.0
    away = name[0] in "BST" and not name.startswith("SD")
    weight = MINUS_3_DB if away else 1.0
    if ("L" in name) == ("R" in name):
        return weight * MINUS_3_DB, weight * MINUS_3_DB
    return (weight, 0.0) if "L" in name else (0.0, weight)
