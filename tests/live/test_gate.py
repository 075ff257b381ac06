"""Where speech begins and ends in a microphone."""

import numpy as np

from livetalk_core.live.gate import BLOCK, Gate


def noise(seconds, dbfs, seed=0):
    return (np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 10 ** (dbfs / 20)).astype(np.float32)


def heard(gate, sound, piece):
    return [part for start in range(0, len(sound), piece) for part in gate.take(sound[start : start + piece])]


def test_a_room_is_no_speech():
    gate = Gate()
    assert not heard(gate, noise(20, -60), 317)
    assert not gate.open


def test_speech_is_one_utterance_with_what_came_just_before():
    sound = np.concatenate([noise(3, -62), noise(0.8, -25), noise(0.3, -62), noise(0.8, -25), noise(3, -62)])
    parts = heard(Gate(), sound, 500)
    assert [part.begins for part in parts].count(True) == 1 == [part.ends for part in parts].count(True)
    said = np.concatenate([part.sound for part in parts])
    start = next(at for at in range(0, len(sound), BLOCK) if np.array_equal(sound[at : at + len(said)], said))
    assert 2.75 <= start / 16_000 <= 2.85
    assert abs(len(said) / 16_000 - (0.2 + 1.9 + 0.7)) < 0.06


def test_the_noise_of_a_loud_room_is_learnt():
    gate = Gate()
    heard(gate, noise(20, -42), 320)
    assert not heard(gate, noise(5, -42, 1), 320)
    assert heard(gate, noise(1, -20, 2), 320)
