"""Speech to audio features, encoded as chunks need them.

Three modes. `window`: overlapping windows over a file of any length, each with margins on both sides; loudness,
mean and variance are measured over the whole file first. `stream`: the reference's live mode, the last 8 seconds,
encoded again for every chunk, no look-ahead. `whole`: the reference's file mode, everything at once.

A speech of up to 16 s is one window: its features are the same in `window` and `whole`.

In all modes the lips can be moved against the sound by an offset: they show at each moment what is heard so much later
(or, below 0, was heard before).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import AUDIO_MODES as MODES
from ..errors import InputError
from ..media.audio import AudioSource
from ..media.loudness import gain_to, integrated_loudness
from ..media.room_tone import is_room_tone, without_room_tone
from ..models.audio_encoder import windows
from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from .plan import Chunk, ChunkPlan

WHOLE_LIMIT_SECONDS = 300
LIVE_FRAMES = 8 * FRAMES_PER_SECOND
WINDOW_FRAMES = 8 * FRAMES_PER_SECOND
MARGIN_FRAMES = 4 * FRAMES_PER_SECOND
"""What a window encodes on either side of its own frames."""
REACH = 2
"""Frames that a chunk's windows look beyond it on either side."""
MOST_OFFSET_MS = 10_000
EPSILON = 1e-7
"""Added to the variance, as transformers' Wav2Vec2FeatureExtractor does."""


class Encoder(Protocol):
    """What turns sound into features: `models.audio_encoder.AudioEncoder`, wherever it runs."""

    @property
    def lufs(self) -> float | None:
        """Integrated loudness that it wants; None where any will do."""
        ...

    def embed(self, waveform: Tensor, frames: int) -> Tensor:
        """Standardised 16 kHz sound [S] -> [frames, blocks, channels] at 25 per second."""
        ...


class Standard(NamedTuple):
    """The affine map of a waveform to the encoder's loudness, then to zero mean and unit variance."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, gain: float, mean: float, variance: float) -> "Standard":
        """From the gain that sets the loudness, and the waveform's moments before it."""
        return cls(mean, (gain**2 * variance + EPSILON) ** 0.5 / gain)

    def apply(self, waveform: np.ndarray) -> Tensor:
        """[S] -> [S] in float32."""
        return torch.from_numpy(((waveform - self.mean) / self.deviation).astype(np.float32))


class WindowFeatures:
    """Mode `window`: flat memory at any length, and the same features wherever a render is taken up again."""

    def __init__(self, source: AudioSource, encoder: Encoder, plan: ChunkPlan, offset: int = 0) -> None:
        self.source, self.encoder, self.end, self.offset = source, encoder, plan.end, offset
        statistics = source.statistics(self.end * SAMPLES_PER_FRAME)
        gain = gain_to(encoder.lufs, statistics.loudness)
        self.standard = Standard.of(gain, statistics.mean, statistics.variance)
        self.size = self.end if self.end <= WINDOW_FRAMES + 2 * MARGIN_FRAMES else WINDOW_FRAMES
        self._windows: dict[int, Tensor] = {}

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """Windows of the chunk's frames: [1, frames, 5, blocks, channels]."""
        start, stop = max(0, chunk.start - REACH), min(self.end, chunk.stop + REACH)
        embedding = self._frames(start, stop)
        return windows(embedding, chunk.start - start, chunk.stop - start)[None]

    def _frames(self, start: int, stop: int) -> Tensor:
        parts = []
        for index in range(start // self.size, (stop - 1) // self.size + 1):
            first = index * self.size
            parts.append(self._window(index)[max(0, start - first) : stop - first])
        return torch.cat(parts)

    def _window(self, index: int) -> Tensor:
        """Frames of a window. A chunk touches two at most: others are let go before one more is encoded."""
        if index not in self._windows:
            self._windows = {i: window for i, window in self._windows.items() if abs(i - index) == 1}
            self._windows[index] = self._encode_window(index)
        return self._windows[index]

    def _encode_window(self, index: int) -> Tensor:
        """Frames of window `index`, its margins cut off again."""
        first = index * self.size
        last = min(self.end, first + self.size)
        start, stop = max(0, first - MARGIN_FRAMES), min(self.end, last + MARGIN_FRAMES)
        sound = _read(self.source, start, stop, self.offset)
        waveform = torch.zeros(len(sound)) if is_room_tone(sound) else self.standard.apply(sound)
        return self.encoder.embed(waveform, stop - start)[first - start : last - start].clone()


class WholeFeatures:
    """Mode `whole`: one encoding of the whole speech, up to 5 minutes."""

    def __init__(self, source: AudioSource, encoder: Encoder, plan: ChunkPlan, offset: int = 0) -> None:
        if source.seconds > WHOLE_LIMIT_SECONDS:
            raise InputError(
                f"speech of {source.seconds:.0f} s; audio mode 'whole' takes up to {WHOLE_LIMIT_SECONDS} s: "
                "use 'window', which has no limit"
            )
        self.source, self.encoder, self.end, self.offset = source, encoder, plan.end, offset
        self._embedding: Tensor | None = None

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """Windows of the chunk's frames: [1, frames, 5, blocks, channels]."""
        if self._embedding is None:
            self._embedding = _encode(self.encoder, _read(self.source, 0, self.end, self.offset), self.end)
        return windows(self._embedding, chunk.start, chunk.stop)[None]


class LiveFeatures:
    """Mode `stream`: the 8 seconds that end with the chunk, silence before the beginning."""

    def __init__(self, source: AudioSource, encoder: Encoder, plan: ChunkPlan, offset: int = 0) -> None:
        self.source, self.encoder, self.offset = source, encoder, offset

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """Windows of the chunk's frames: [1, frames, 5, blocks, channels]."""
        sound = _read(self.source, chunk.stop - LIVE_FRAMES, chunk.stop, self.offset)
        embedding = _encode(self.encoder, sound, LIVE_FRAMES)
        return windows(embedding, LIVE_FRAMES - chunk.frames, LIVE_FRAMES)[None]


class SpeakersFeatures:
    """Two speakers: each has features of its own."""

    def __init__(self, speakers: Sequence["SpeechFeatures"]) -> None:
        self.speakers = speakers

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """Windows of all speakers: [speakers, frames, 5, blocks, channels]."""
        return torch.cat([features.for_chunk(chunk) for features in self.speakers])


SpeechFeatures = WindowFeatures | WholeFeatures | LiveFeatures


def speech_features(
    source: AudioSource, encoder: Encoder, plan: ChunkPlan, mode: str, offset: int = 0
) -> SpeechFeatures:
    """The features of `source` in one of `MODES`; a plan for mode `stream` must be `live`.

    `offset`: samples at 16 kHz by which the lips are ahead of the sound; below 0, behind it.
    """
    kinds = {"window": WindowFeatures, "stream": LiveFeatures, "whole": WholeFeatures}
    if mode not in kinds:
        raise InputError(f"audio mode {mode!r}; choose one of {', '.join(MODES)}")
    return kinds[mode](source, encoder, plan, offset)


def offset_samples(milliseconds: float) -> int:
    """An offset as `speech_features` takes it; `InputError` where it is no number or beyond `MOST_OFFSET_MS`."""
    if not abs(milliseconds) <= MOST_OFFSET_MS:
        raise InputError(
            f"audio offset of {milliseconds:g} ms; at most {MOST_OFFSET_MS} either way are possible: "
            "cut the sound itself"
        )
    return round(milliseconds * SAMPLE_RATE / 1000)


def _read(source: AudioSource, start: int, stop: int, offset: int) -> np.ndarray:
    """16 kHz mono of frames [start, stop), `offset` samples later, zeros outside the speech: [S] in float64."""
    first, last = start * SAMPLES_PER_FRAME + offset, stop * SAMPLES_PER_FRAME + offset
    begin = min(max(0, first), max(0, last))
    sound = source.read(begin, max(0, last) - begin, SAMPLE_RATE, mono=True)[0]
    return np.pad(sound.astype(np.float64), (last - first - len(sound), 0))


def _encode(encoder: Encoder, sound: np.ndarray, frames: int) -> Tensor:
    """Loudness and moments measured on this very sound, as the reference does; room tone is silence."""
    sound = without_room_tone(sound)
    gain = gain_to(encoder.lufs, integrated_loudness(sound))
    return encoder.embed(Standard.of(gain, float(sound.mean()), float(sound.var())).apply(sound), frames)
