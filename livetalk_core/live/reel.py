"""The frames around the present: the last ones shown, and those computed ahead. All places are counted in frames."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Moment(NamedTuple):
    """40 ms of the stream.

    frame [3,1,H,W] in -1..1 is what later chunks start from, pixels uint8 [H,W,3] and sound float32 [640] at 16 kHz
    are what leaves. `spoken`: part of an utterance, else silence. `arrived`: on an utterance's first moment, when its
    first sample came. `ends`: the utterances that end here.
    """

    frame: Tensor
    pixels: np.ndarray
    sound: np.ndarray
    spoken: bool = False
    arrived: float | None = None


class Reel:
    """At most `most` moments ahead, and the last `past` shown. Moments come `group` at a time.

    Everything that is added names the generation that it was begun in; `cut` raises it, and what was begun before is
    refused from then on.
    """

    def __init__(self, past: int, most: int, group: int) -> None:
        self.most, self.group, self.generation, self.shown = most, group, 0, 0
        self._past: deque[Moment] = deque(maxlen=past)
        self._ahead: deque[Moment] = deque()
        self._spoken_end = 0

    @property
    def lead(self) -> int:
        """Moments ahead."""
        return len(self._ahead)

    @property
    def end(self) -> int:
        """Place behind the last moment."""
        return self.shown + self.lead

    @property
    def spoken_begin(self) -> int:
        """Place of the next spoken moment; `end` where none is ahead."""
        return self.shown + next((index for index, moment in enumerate(self._ahead) if moment.spoken), self.lead)

    @property
    def spoken_end(self) -> int:
        """Place behind the last spoken moment, at least the present."""
        return max(self.shown, self._spoken_end)

    def has_room(self, at: int) -> bool:
        """Whether a group would find room if all from place `at` on were dropped."""
        return at - self.shown + self.group <= self.most

    def add(self, generation: int, moment: Moment) -> bool:
        """Put a moment behind the last one; False, and nothing is added, where its generation has gone."""
        if generation != self.generation:
            return False
        assert self.lead < self.most, "wait for room"
        self._ahead.append(moment)
        if moment.spoken:
            self._spoken_end = self.end
        return True

    def take(self) -> Moment | None:
        """The next moment, which is now shown."""
        if not self._ahead:
            return None
        moment = self._ahead.popleft()
        self._past.append(moment)
        self.shown += 1
        return moment

    def cut(self, at: int) -> Sequence[Moment]:
        """Drop what is at and behind place `at` (the present to `end`), and begin a new generation; gives it back."""
        assert self.shown <= at <= self.end, f"{at} is not within {self.shown}..{self.end}"
        self.generation += 1
        dropped = [self._ahead.pop() for _ in range(self.end - at)]
        self._spoken_end = min(self._spoken_end, at)
        return dropped[::-1]

    def last(self, count: int) -> Sequence[Moment]:
        """The last moments before `end`, shown or not: `count`, or all that are known."""
        return [*self._past, *self._ahead][-count:]
