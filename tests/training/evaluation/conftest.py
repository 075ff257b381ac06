"""Held-out people who speak bursts of noise: no voices needed."""

import numpy as np
import pytest

from livetalk_core.training.evaluation.subjects import Cast, Subject
from livetalk_core.training.speech import SpeechFolder

FRAMES = 100


def bursts() -> np.ndarray:
    """Twenty seconds of noise that swells and fades irregularly: int16 at 16 kHz."""
    time = np.arange(20 * 16_000) / 16_000
    swell = np.clip(np.sin(2 * np.pi * 1.7 * time) + np.sin(2 * np.pi * 0.6 * time + 1), 0, 2) / 2
    noise = np.convolve(np.random.default_rng(0).normal(size=len(time)), np.ones(12) / 12, mode="same")
    return (noise * swell * 20_000).clip(-32767, 32767).astype(np.int16)


@pytest.fixture(scope="session")
def cast() -> Cast:
    """Four seconds each, 96x96 px."""
    return Cast(SpeechFolder([bursts()]), FRAMES, (96, 96))


@pytest.fixture(scope="session")
def subjects(cast) -> list[Subject]:
    """The first three of the cast."""
    return [cast.subject(index) for index in range(3)]
