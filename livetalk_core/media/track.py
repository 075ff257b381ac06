"""A stream of sound that is read by position."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np


class Track:
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
