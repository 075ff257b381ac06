"""Audio features in their three modes."""

import itertools

import numpy as np
import pytest
import torch
from pyloudnorm import Meter

from livetalk_core.config import AudioEncoderConfig, StreamConfig
from livetalk_core.errors import InputError
from livetalk_core.media.audio import TensorAudio
from livetalk_core.models.audio_encoder import AudioEncoder
from livetalk_core.streaming.features import LIVE_FRAMES, SpeakersFeatures, offset_samples, speech_features
from livetalk_core.streaming.plan import ChunkPlan

STREAM = StreamConfig()
CONFIG = AudioEncoderConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(8,) * 7,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return AudioEncoder(CONFIG).eval().requires_grad_(False)


def speech(seconds: float, seed: int = 0, loudness: float = 0.1) -> TensorAudio:
    """Noise in syllables: four bursts a second, as speech has them."""
    generator = np.random.default_rng(seed)
    samples = round(seconds * 16_000)
    bursts = np.clip(np.sin(2 * np.pi * 4 * np.arange(samples) / 16_000), 0, 1)
    return TensorAudio(torch.from_numpy(generator.normal(size=samples) * bursts * loudness)[None], 16_000)


def features(source, encoder, mode="window"):
    plan = ChunkPlan.of(-(-source.samples // 640), STREAM, live=mode == "stream")
    made = speech_features(source, encoder, plan, mode)
    return torch.cat([made.for_chunk(plan.chunk(i)) for i in range(plan.count)])


@pytest.mark.parametrize("mode", ["window", "whole", "stream"])
def test_shape(encoder, mode):
    assert features(speech(3.0), encoder, mode).shape == (3, 33, 5, 2, 16)


def test_window_is_whole_where_one_window_holds_the_speech(encoder):
    source = speech(12.0)
    torch.testing.assert_close(features(source, encoder), features(source, encoder, "whole"), atol=2e-5, rtol=0)


def test_window_stays_near_whole_on_long_speech(encoder):
    """The group norm sees 16 s instead of everything, attention likewise."""
    source = speech(60.0)
    window, whole = features(source, encoder), features(source, encoder, "whole")
    assert (window - whole).norm() / whole.norm() < 0.1


def test_consecutive_chunks_agree_where_they_overlap(encoder):
    """Chunk n+1 reads the same features for its motion frames, also across windows' borders (frames 200, 400)."""
    source = speech(20.0)
    made = features(source, encoder)
    assert all(torch.equal(a[28:31], b[:3]) for a, b in itertools.pairwise(made))


def test_features_do_not_depend_on_what_was_asked_before(encoder):
    source, plan = speech(40.0), ChunkPlan.of(1000, STREAM)
    onwards = speech_features(source, encoder, plan, "window")
    seen = [onwards.for_chunk(plan.chunk(i)) for i in range(plan.count)]
    resumed = speech_features(speech(40.0), encoder, plan, "window")
    assert torch.equal(resumed.for_chunk(plan.chunk(20)), seen[20])
    assert torch.equal(onwards.for_chunk(plan.chunk(3)), seen[3])


@pytest.mark.parametrize("mode", ["window", "whole", "stream"])
def test_loudness_has_no_effect(encoder, mode):
    quiet, loud = (features(speech(3.0, loudness=level), encoder, mode) for level in (0.01, 0.3))
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)


def test_live_mode_is_the_reference_formula(encoder):
    """The last 8 s, loudness of these 8 s alone, the newest frames clamped: no look-ahead."""
    source, plan = speech(10.0), ChunkPlan.of(250, STREAM, live=True)
    chunk = plan.chunk(3)
    sound = source.read(0, chunk.stop * 640, 16_000, mono=True)[0].astype(np.float64)
    sound = np.pad(sound, (128_000 - len(sound), 0))
    sound = sound * 10 ** ((-23 - Meter(16_000).integrated_loudness(sound)) / 20)
    sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    embedding = encoder.embed(torch.from_numpy(sound.astype(np.float32)), 200)
    index = (torch.arange(167, 200)[:, None] + torch.arange(-2, 3)).clamp(max=199)
    found = speech_features(source, encoder, plan, "stream").for_chunk(chunk)
    torch.testing.assert_close(found[0], embedding[index], atol=1e-5, rtol=0)


def test_live_mode_hears_nothing_of_the_future(encoder):
    a, b = speech(6.0), speech(6.0)
    b._waveform[:, 3 * 16_000 :] = 0
    plan = ChunkPlan.of(150, STREAM, live=True)
    first, second = (speech_features(source, encoder, plan, "stream") for source in (a, b))
    assert torch.equal(first.for_chunk(plan.chunk(1)), second.for_chunk(plan.chunk(1)))
    assert not torch.equal(first.for_chunk(plan.chunk(4)), second.for_chunk(plan.chunk(4)))


@pytest.mark.parametrize("mode", ["window", "whole", "stream"])
@pytest.mark.parametrize("samples", [1, 399, 6400])
def test_very_short_and_silent_speech_gives_finite_features(encoder, mode, samples):
    source = TensorAudio(torch.zeros(1, samples), 16_000)
    assert features(source, encoder, mode).isfinite().all()


def test_two_speakers_are_stacked(encoder):
    plan = ChunkPlan.of(50, STREAM)
    left, right = (speech_features(speech(2.0, seed), encoder, plan, "window") for seed in (0, 1))
    both = SpeakersFeatures([left, right]).for_chunk(plan.chunk(0))
    assert torch.equal(both[1:], right.for_chunk(plan.chunk(0)))
    assert both.shape[0] == 2


def test_whole_mode_ends_at_five_minutes(encoder):
    source = TensorAudio(torch.zeros(1, 301 * 16_000), 16_000)
    with pytest.raises(InputError, match="use 'window'"):
        features(source, encoder, "whole")


def test_unknown_mode_names_the_known(encoder):
    with pytest.raises(InputError, match="window, stream, whole"):
        speech_features(speech(1.0), encoder, ChunkPlan.of(25, STREAM), "live")


def room_tone(seconds: float, level_db: float = -55) -> torch.Tensor:
    """White noise [1, S] at a level in dBFS."""
    noise = np.random.default_rng(3).standard_normal((1, round(seconds * 16_000)))
    return torch.from_numpy(noise * 10 ** (level_db / 20))


@pytest.mark.parametrize("mode", ["window", "whole", "stream"])
def test_room_tone_is_heard_as_silence(encoder, mode):
    silent, quiet = (TensorAudio(room_tone(3.0) * level, 16_000) for level in (0, 1))
    assert torch.equal(features(quiet, encoder, mode), features(silent, encoder, mode))


@pytest.mark.parametrize("mode", ["window", "stream"])
def test_room_tone_long_after_speech_is_heard_as_silence(encoder, mode):
    """Each window is encoded by itself, and the encoder's group norm raises what it holds to one level."""
    spoken = torch.from_numpy(speech(3.0)._waveform)
    heard, silent = (
        features(TensorAudio(torch.cat([spoken, room_tone(30.0) * level], dim=1), 16_000), encoder, mode)[-5:]
        for level in (1, 0)
    )
    torch.testing.assert_close(heard, silent, atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["window", "whole", "stream"])
@pytest.mark.parametrize("milliseconds", [200, -200, 37.5])
def test_an_offset_is_a_shift_of_what_is_heard(encoder, mode, milliseconds):
    """Exactly, and at both ends: silence comes before the first and behind the last sample, nothing is lost between."""
    source = speech(5.0)
    samples = offset_samples(milliseconds)
    assert samples == milliseconds * 16
    waveform = source._waveform[0]
    shifted = np.concatenate([waveform[max(0, samples) :], np.zeros(max(0, samples), np.float32)])
    shifted = np.concatenate([np.zeros(max(0, -samples), np.float32), shifted])
    heard = []
    plan = ChunkPlan.of(125, STREAM, live=mode == "stream")
    made = speech_features(source, encoder, plan, mode, samples)
    embed = encoder.embed

    class Recorder:
        lufs = encoder.lufs

        def embed(self, sound, frames):
            heard.append(sound)
            return embed(sound, frames)

    made.encoder = Recorder()
    made.for_chunk(plan.chunk(0))
    made.for_chunk(plan.chunk(plan.count - 1))
    first, last = (0, plan.end * 640) if mode != "stream" else (0, plan.chunk(0).stop * 640)
    expected = np.pad(shifted, (0, plan.end * 640))[first:last]
    if mode != "stream" or samples < 0:
        assert np.corrcoef(heard[0].numpy()[-len(expected) :], expected)[0, 1] > 0.99999
    else:
        before = np.pad(waveform, (LIVE_FRAMES * 640, plan.end * 640))
        expected = before[samples + last : samples + last + LIVE_FRAMES * 640]
        assert np.corrcoef(heard[0].numpy(), expected)[0, 1] > 0.99999


def test_no_offset_changes_no_number(encoder):
    source, plan = speech(3.0), ChunkPlan.of(75, STREAM)
    plain, zero = (speech_features(source, encoder, plan, "window", *offset) for offset in ((), (0,)))
    assert torch.equal(plain.for_chunk(plan.chunk(0)), zero.for_chunk(plan.chunk(0)))


@pytest.mark.parametrize("milliseconds", [10_001, -20_000, float("nan"), float("inf")])
def test_an_offset_beyond_all_sense(milliseconds):
    with pytest.raises(InputError, match="audio offset of"):
        offset_samples(milliseconds)
