"""Speech that waits to be spoken: pieces of any size in, the sound of a chunk out."""

from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from ..errors import InputError
from ..shapes import SAMPLE_RATE

RATES = (16_000, 24_000, 48_000)
"""Sample rates of PCM that is taken."""
MOST_SECONDS = 600
"""Of speech that may wait."""
MOST_UTTERANCES = 1000
FLOW_SECONDS = 0.4
"""An utterance whose last piece came longer ago has dried up: what is there is spoken without it."""


class Resampler:
    """PCM16 of one utterance, piece by piece, as 16 kHz float32."""

    def __init__(self, rate: int) -> None:
        if rate not in RATES:
            raise InputError(f"PCM of {rate} Hz; {', '.join(map(str, RATES))} Hz are taken: convert it first")
        self._rate, self._samples = rate, 0
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    def take(self, data: bytes) -> np.ndarray:
        """Little-endian samples -> [n] float32 in -1..1; `InputError` for half a sample."""
        if len(data) % 2:
            raise InputError(f"{len(data)} bytes of PCM16; whole samples of 2 bytes are needed: do not cut one")
        samples = np.frombuffer(data, "<i2")
        if self._rate == SAMPLE_RATE or not len(samples):
            return samples.astype(np.float32) / 32768
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._samples += len(samples)
        return self._joined(self._resampler.resample(frame))

    def rest(self) -> np.ndarray:
        """What its filter still holds; nothing may be taken afterwards."""
        return self._joined(self._resampler.resample(None)) if self._samples else np.zeros(0, np.float32)

    @staticmethod
    def _joined(frames: list[av.AudioFrame]) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(frame.to_ndarray()[0] for frame in frames)])


@dataclass
class Utterance:
    """What is said in one go. `arrived`: when its first sample came; `open`: more may come."""

    number: int
    arrived: float
    open: bool = True
    waiting: deque[np.ndarray] = field(default_factory=deque)
    left: int = 0
    begun: bool = False

    def take(self, count: int) -> np.ndarray:
        """Up to `count` of the samples that wait."""
        parts = [np.zeros(0, np.float32)]
        while count and self.waiting:
            piece = self.waiting.popleft()
            if len(piece) > count:
                self.waiting.appendleft(piece[count:])
            parts.append(piece[:count])
            count -= len(parts[-1])
        sound = np.concatenate(parts)
        self.left -= len(sound)
        return sound


class Taken(NamedTuple):
    """A chunk's sound, float32 [n], of which the first `spoken` samples are speech and the rest is silence.

    `begins` are (sample, time): where an utterance begins, and when it arrived; `ends` (sample, number): where one
    ends.
    """

    sound: np.ndarray
    spoken: int
    begins: list[tuple[int, float]]
    ends: list[tuple[int, int]]


class Speech:
    """Utterances in line. Times are seconds of any monotonic clock."""

    def __init__(self, most_seconds: float = MOST_SECONDS) -> None:
        self._line: deque[Utterance] = deque()
        self._most, self._numbers, self._fed = int(most_seconds * SAMPLE_RATE), 0, 0.0

    @property
    def samples(self) -> int:
        """How many wait."""
        return sum(utterance.left for utterance in self._line)

    @property
    def midway(self) -> bool:
        """Whether the beginning of the foremost utterance has been taken already, and not its end."""
        return bool(self._line) and self._line[0].begun

    def begin(self, now: float) -> int:
        """A new utterance, behind the others, which are complete now; its number."""
        if len(self._line) >= MOST_UTTERANCES:
            raise InputError(f"{len(self._line)} utterances wait to be spoken, the most that may; wait, or interrupt")
        self.end()
        self._numbers += 1
        self._line.append(Utterance(self._numbers, now))
        return self._numbers

    def add(self, sound: np.ndarray, now: float) -> None:
        """More of the last utterance, [n] float32 at 16 kHz; `InputError`, and nothing is taken, if too much waits."""
        if not self._line or not self._line[-1].open:
            raise InputError("sound outside of an utterance; begin one first")
        if self.samples + len(sound) > self._most:
            raise InputError(
                f"{self._most / SAMPLE_RATE:.0f} s of speech wait to be spoken, the most that may; send no faster than "
                "is spoken from here on, or interrupt"
            )
        utterance = self._line[-1]
        if not len(sound):
            return
        if not utterance.begun and not utterance.left:
            utterance.arrived = now
        utterance.waiting.append(sound)
        utterance.left += len(sound)
        self._fed = now

    def end(self) -> None:
        """The last utterance is complete."""
        if self._line:
            self._line[-1].open = False

    def clear(self) -> None:
        """Forget all of it."""
        self._line.clear()

    def exhausted(self) -> list[int]:
        """Takes the foremost utterances out of line that are complete and have no sound left; their numbers."""
        numbers = []
        while self._line and not self._line[0].open and not self._line[0].left:
            numbers.append(self._line.popleft().number)
        return numbers

    def ready(self, count: int) -> bool:
        """Whether a chunk of `count` samples need not wait: they are there, or nothing more will come."""
        return self.samples >= count or any(not utterance.open and utterance.left for utterance in self._line)

    def flows(self, now: float) -> bool:
        """Whether an utterance is open and its sound keeps coming."""
        return bool(self._line) and self._line[-1].open and now - self._fed < FLOW_SECONDS

    def take(self, count: int) -> Taken:
        """The next `count` samples, filled up with silence."""
        parts, begins, ends, filled = [np.zeros(0, np.float32)], [], [], 0
        while self._line and (filled < count or not self._line[0].left):
            utterance = self._line[0]
            part = utterance.take(count - filled)
            if len(part) and not utterance.begun:
                begins.append((filled, utterance.arrived))
                utterance.begun = True
            parts.append(part)
            filled += len(part)
            if utterance.left or utterance.open:
                break
            ends.append((filled, self._line.popleft().number))
        return Taken(np.pad(np.concatenate(parts), (0, count - filled)), filled, begins, ends)
