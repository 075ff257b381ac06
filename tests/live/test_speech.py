"""Speech that waits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.errors import InputError
from livetalk_core.live.speech import FLOW_SECONDS, Resampler, Speech


def ramp(start, count):
    return np.arange(start, start + count, dtype=np.float32)


@given(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=6), st.integers(1, 60))
def test_every_sample_is_taken_once_and_in_order(utterances, count):
    speech, total = Speech(), 0
    for pieces in utterances:
        speech.begin(0)
        for piece in pieces:
            speech.add(ramp(total + 1, piece), 0)
            total += piece
        speech.end()
    heard, ends = [], []
    while speech.samples:
        assert speech.ready(count)
        taken = speech.take(count)
        assert len(taken.sound) == count and not taken.sound[taken.spoken :].any()
        heard.append(taken.sound[: taken.spoken])
        ends += [number for _, number in taken.ends]
    ends += speech.exhausted()
    assert np.array_equal(np.concatenate([ramp(0, 0), *heard]), ramp(1, total))
    assert sorted(ends) == list(range(1, len(utterances) + 1))


def test_an_open_utterance_is_ready_with_a_whole_chunk_alone():
    speech = Speech()
    speech.begin(0)
    speech.add(ramp(0, 99), 1)
    assert not speech.ready(100) and speech.flows(1.1) and not speech.midway
    speech.add(ramp(99, 10), 2)
    assert speech.ready(100)
    taken = speech.take(100)
    assert (taken.begins, taken.ends) == ([(0, 1)], [])
    assert not speech.ready(100) and speech.midway and not speech.flows(2.01 + FLOW_SECONDS)
    speech.end()
    assert speech.ready(100)
    assert speech.take(100).ends == [(9, 1)]


def test_what_is_too_much_is_refused_and_nothing_of_it_kept():
    speech = Speech(most_seconds=1)
    speech.begin(0)
    speech.add(ramp(0, 16_000), 0)
    with pytest.raises(InputError, match=r"1 s of speech wait.*interrupt"):
        speech.add(ramp(0, 1), 0)
    assert speech.samples == 16_000
    with pytest.raises(InputError, match="begin one first"):
        speech.end()
        speech.add(ramp(0, 1), 0)


def test_utterances_without_end_are_refused():
    speech = Speech()
    with pytest.raises(InputError, match="utterances wait"):
        for _ in range(2000):
            speech.begin(0)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("piece", [1, 160, 777, 10**6])
def test_pcm_is_resampled_as_one_sound_whatever_its_pieces(rate, piece):
    tone = np.sin(np.arange(rate) * 2 * np.pi * 440 / rate) * 20_000
    data = tone.astype("<i2").tobytes()
    resampler = Resampler(rate)
    pieces = [data[start : start + 2 * piece] for start in range(0, len(data), 2 * piece)][
        : 3000 if piece == 1 else None
    ]
    sound = np.concatenate([*(resampler.take(part) for part in pieces), resampler.rest()])
    seconds = sum(map(len, pieces)) / 2 / rate
    assert abs(len(sound) - seconds * 16_000) <= 1
    inner = slice(100, len(sound) - 100)
    wanted = np.sin(np.arange(len(sound)) * 2 * np.pi * 440 / 16_000) * 20_000 / 32_768
    assert np.abs(sound - wanted)[inner].max() < 0.01


def test_half_a_sample_and_another_rate_are_refused():
    with pytest.raises(InputError, match="3 bytes of PCM16"):
        Resampler(16_000).take(b"abc")
    with pytest.raises(InputError, match="44100 Hz"):
        Resampler(44_100)
