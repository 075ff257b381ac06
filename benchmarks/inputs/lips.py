"""What the mouth does on sounds that hold no speech, on out-of-phase stereo, and with an offset."""

from collections.abc import Iterator

import numpy as np
import torch

from livetalk_core.media.audio import TensorAudio, open_audio
from livetalk_core.shapes import FRAMES_PER_SECOND, SAMPLE_RATE
from livetalk_core.streaming.features import MODES, offset_samples
from tests.streaming.test_lips import SHUT, SPEAKING, Stage, best_lag, room_tone

from .hearing import ROOT, Row

LEVELS = (-80, -70, -60, -50)
SECONDS, SPEECH_SECONDS = 3, 4
OFFSETS = (200, -200)


def _source(sound: np.ndarray) -> TensorAudio:
    return TensorAudio(torch.from_numpy(np.ascontiguousarray(sound, np.float32)), SAMPLE_RATE)


def try_lips() -> list[Row]:
    """All of it."""
    stage = Stage(ROOT / "demo")
    speech = open_audio(ROOT / "demo" / "speech.wav").read(0, SPEECH_SECONDS * SAMPLE_RATE, SAMPLE_RATE, mono=True)
    return [*_rooms(stage), *_phases(stage, speech), *_offsets(stage, speech)]


def _rooms(stage: Stage) -> Iterator[Row]:
    for mode in MODES:
        for level in LEVELS:
            opening = float(stage.opening(_source(room_tone(SECONDS, level)), mode).mean())
            yield Row(f"room tone of {level} dBFS, {mode}", f"opening {opening:.3f}", opening < SHUT)


def _phases(stage: Stage, speech: np.ndarray) -> Iterator[Row]:
    for name, sound in (("speech", speech), ("right channel = -left", np.concatenate([speech, -speech]))):
        opening = float(stage.opening(_source(sound)).mean())
        yield Row(name, f"opening {opening:.3f}", opening > SPEAKING)


def _offsets(stage: Stage, speech: np.ndarray) -> Iterator[Row]:
    plain = stage.opening(_source(speech))
    for milliseconds in OFFSETS:
        moved = stage.opening(_source(speech), offset=offset_samples(milliseconds))
        early = best_lag(moved, plain) * 1000 / FRAMES_PER_SECOND
        right = abs(early - milliseconds) <= 1000 / FRAMES_PER_SECOND
        words = f"lips {abs(early):.0f} ms {'earlier' if early > 0 else 'later'}"
        yield Row(f"--audio-offset {milliseconds}", words, right)
