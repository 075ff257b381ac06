"""Steady quiet sound is room tone at any colour and level; speech is not, however quiet."""

import numpy as np
import pytest

from livetalk_core.media.room_tone import is_room_tone, without_room_tone

RATE = 16_000


def noise(seconds: float, slope: float, level_db: float, seed: int = 0) -> np.ndarray:
    """Noise whose power falls with frequency to the power `slope` (0 white, 1 pink, 2 brown) at a level in dBFS."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 20)
    sound = np.fft.irfft(spectrum / frequency ** (slope / 2), count)
    return sound / sound.std() * 10 ** (level_db / 20)


@pytest.mark.parametrize("level", [-80, -65, -50])
@pytest.mark.parametrize("slope", [0, 1, 2])
@pytest.mark.parametrize("seconds", [0.03, 1.32, 8, 60])
def test_noise(seconds, slope, level):
    assert is_room_tone(noise(seconds, slope, level))


@pytest.mark.parametrize("level", [-80, -50])
def test_noise_as_16_bits_and_behind_silence(level):
    sound = np.round(noise(4, 1, level) * 32768) / 32768
    assert is_room_tone(sound) and is_room_tone(np.pad(sound, (64_000, 0)))


def test_hum_and_a_turning_fan():
    time = np.arange(8 * RATE) / RATE
    hum = np.sin(2 * np.pi * 50 * time) + 0.3 * np.sin(2 * np.pi * 150 * time)
    assert is_room_tone(0.003 * hum + noise(8, 1, -60))
    assert is_room_tone(noise(8, 1, -50) * (1 + 0.3 * np.sin(2 * np.pi * 1.3 * time)))


def test_silence():
    assert is_room_tone(np.zeros(20_000)) and is_room_tone(np.zeros(0)) and is_room_tone(np.zeros(1))


@pytest.mark.parametrize("gain_db", [0, -20, -40, -55])
def test_speech_at_any_level(media, gain_db):
    sound = media.speech(6, RATE)[0] * 10 ** (gain_db / 20)
    assert not is_room_tone(sound)
    assert without_room_tone(sound) is sound


def test_speech_above_room_tone(media):
    sound = media.speech(8, RATE)[0]
    assert not is_room_tone(sound * 0.03 + noise(8, 1, -80))
    sound[5600:] = 0  # a word, then nothing but the room
    assert not is_room_tone(sound + noise(8, 1, -50))


def test_loud_noise_is_left_as_it_is():
    sound = noise(3, 0, -35)
    assert not is_room_tone(sound)


def test_room_tone_becomes_zeros():
    assert not without_room_tone(noise(2, 1, -60)).any()
