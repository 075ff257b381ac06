"""Where speech begins and ends in what a microphone hears: by its loudness, block by block."""

from collections import deque
from typing import NamedTuple

import numpy as np

from ..shapes import SAMPLE_RATE

BLOCK = SAMPLE_RATE // 50
"""Samples of 20 ms."""
FLOOR_DBFS = -50.0
"""Quieter than this is never speech."""
ABOVE_NOISE = 12.0
"""Decibels by which speech is louder than the room."""
FALL, RISE = 0.2, 0.005
"""How fast the estimate of the room's noise follows what is quieter and what is louder, as a share a block."""
BEFORE_BLOCKS = 10
"""Blocks before the first loud one that belong to speech: 0.2 s."""
AFTER_BLOCKS = 35
"""Quiet blocks that end it: 0.7 s."""


class Heard(NamedTuple):
    """A piece of speech, [n] float32 at 16 kHz; `begins` and `ends` an utterance."""

    sound: np.ndarray
    begins: bool
    ends: bool


class Gate:
    """Cuts a microphone's sound into utterances; what lies between them is left out."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._before: deque[np.ndarray] = deque(maxlen=BEFORE_BLOCKS)
        self._noise = FLOOR_DBFS - ABOVE_NOISE
        self._quiet = AFTER_BLOCKS
        """Quiet blocks since the last loud one; `AFTER_BLOCKS`: outside of speech."""

    def take(self, sound: np.ndarray) -> list[Heard]:
        """The next samples, [n] float32 at 16 kHz -> the speech in them."""
        sound = np.concatenate([self._rest, sound])
        length = len(sound) // BLOCK * BLOCK
        self._rest = sound[length:]
        heard = [self._block(block) for block in sound[:length].reshape(-1, BLOCK)]
        return [piece for piece in heard if piece is not None]

    @property
    def open(self) -> bool:
        """Whether somebody is speaking."""
        return self._quiet < AFTER_BLOCKS

    def _block(self, block: np.ndarray) -> Heard | None:
        loud, before = self._is_loud(block), self.open
        self._quiet = 0 if loud else min(AFTER_BLOCKS, self._quiet + 1)
        if not before and not loud:
            self._before.append(block)
            return None
        pieces = [*self._before, block]
        self._before.clear()
        return Heard(np.concatenate(pieces), not before, not self.open)

    def _is_loud(self, block: np.ndarray) -> bool:
        level = 10 * np.log10(float(np.square(block).mean()) + 1e-10)
        loud = level > max(FLOOR_DBFS, self._noise + ABOVE_NOISE)
        self._noise += (level - self._noise) * (FALL if level < self._noise else RISE)
        return loud
