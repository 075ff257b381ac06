"""The streamed loudness is pyloudnorm's."""

import math

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.media.loudness import LoudnessMeter, gain_to, integrated_loudness

RATE = 16_000


def noise(samples: int, seed: int) -> np.ndarray:
    """Noise whose level changes by up to 80 dB, so that both gates act."""
    draw = np.random.default_rng(seed)
    levels = 10 ** draw.uniform(-4, 0, samples // 3000 + 1)
    return draw.standard_normal(samples) * np.repeat(levels, 3000)[:samples] * 0.3


@given(st.integers(6400, 60_000), st.integers(0, 9), st.lists(st.integers(1, 9000), min_size=1, max_size=5))
def test_equals_pyloudnorm_however_it_is_cut(samples, seed, cuts):
    sound = noise(samples, seed)
    meter = LoudnessMeter(RATE)
    for start, stop in _pieces(samples, cuts):
        meter.add(sound[start:stop])
    assert meter.loudness() == pytest.approx(pyloudnorm.Meter(RATE).integrated_loudness(sound), abs=1e-9)


def _pieces(samples, cuts):
    start = 0
    while start < samples:
        step = cuts[start % len(cuts)]
        yield start, min(samples, start + step)
        start += step


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_other_rates(rate):
    sound = noise(rate * 3 + 17, 1)
    assert integrated_loudness(sound, rate) == pytest.approx(
        pyloudnorm.Meter(rate).integrated_loudness(sound), abs=1e-9
    )


def test_less_than_a_block_is_padded_with_zeros():
    padded = np.pad(noise(100, 2), (0, 6300))
    assert integrated_loudness(noise(100, 2)) == pytest.approx(pyloudnorm.Meter(RATE).integrated_loudness(padded))


def test_float32_of_the_golden_audio_pipeline_is_within_a_millionth():
    sound = noise(50_000, 3).astype(np.float32)
    assert integrated_loudness(sound) == pytest.approx(pyloudnorm.Meter(RATE).integrated_loudness(sound), abs=1e-6)


def test_silence_is_left_alone():
    assert integrated_loudness(np.zeros(20_000)) == -math.inf
    assert gain_to(-23.0, -math.inf) == 1.0


def test_gain_reaches_the_target():
    sound = noise(40_000, 4)
    louder = sound * gain_to(-23.0, integrated_loudness(sound))
    assert integrated_loudness(louder) == pytest.approx(-23.0, abs=1e-9)


def test_memory_is_one_number_a_step():
    meter = LoudnessMeter(RATE)
    for _ in range(100):
        meter.add(np.zeros(RATE))
    assert len(meter._squares) <= 6400 and len(meter._powers) <= 1000
