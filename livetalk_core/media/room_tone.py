"""Whether a stretch of sound holds anything but the room it was recorded in.

Wav2Vec2 raises whatever it hears to one level: the sound before it is set to unit variance, and its first layer has
a group norm over time. A gain with a ceiling is therefore not enough; down to some 70 dB below unit variance steady
noise gives the features that loud noise gives, and the mouth moves. So what is room tone alone is heard as silence.
"""

import numpy as np

from ..shapes import SAMPLE_RATE

BLOCK = SAMPLE_RATE // 20
"""Samples of a block, 50 ms: shorter than a syllable and the closures within."""
PRE_EMPHASIS = 0.97
"""First-order filter that keeps rumble and hum, whose blocks vary by themselves, from deciding."""
LOUD = 10 ** (-42 / 20)
"""Level of a block, after the filter, that no room tone has; 1 is full scale."""
LOUD_BLOCKS = 2
CONTRAST = 10 ** (15 / 20)
"""How far speech stands out, however quiet it is: steady noise stays within some 6 dB of its quietest blocks."""
CONTRAST_BLOCKS = 4
SILENT = 10 ** (-110 / 20)
"""Level below which a block is digital silence. Rooms know none: what goes on behind it is no room tone, unless it is
there only before or after the sound, as padding."""


def is_room_tone(sound: np.ndarray) -> bool:
    """Whether 16 kHz sound [S] in -1..1 is silent, or so quiet and steady that nobody can be speaking in it."""
    levels = _levels(sound)
    audible = np.flatnonzero(levels > SILENT)
    if not len(audible):
        return True
    levels = levels[audible[0] : audible[-1] + 1]
    prominent = levels > CONTRAST * np.quantile(levels, 0.1)
    loud = int(np.count_nonzero(levels > LOUD))
    return loud < LOUD_BLOCKS and int(np.count_nonzero(prominent)) < CONTRAST_BLOCKS


def without_room_tone(sound: np.ndarray) -> np.ndarray:
    """The sound [S], or zeros where it `is_room_tone`."""
    return np.zeros_like(sound) if is_room_tone(sound) else sound


def _levels(sound: np.ndarray) -> np.ndarray:
    """Root mean square of each block after the filter, the last one padded with zeros."""
    filtered = sound - PRE_EMPHASIS * np.concatenate([sound[:1], sound[:-1]])
    blocks = np.pad(filtered, (0, -len(filtered) % BLOCK)).reshape(-1, BLOCK)
    return np.sqrt(np.square(blocks, dtype=np.float64).mean(axis=1))
