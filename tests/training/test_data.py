"""Drawn people who speak: repeatable, all different, their mouths in step with the sound."""

import wave
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from livetalk_core.errors import InputError
from livetalk_core.training.altered import Alteration
from livetalk_core.training.data import TakeSource, video
from livetalk_core.training.motion import BLINK
from livetalk_core.training.speech import SpeechFolder

INDEX = torch.arange(0, 200, 8)[None]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> TakeSource:
    """Two minutes of bursts of noise, half a second loud and half a second silent, as the only recording."""
    folder = tmp_path_factory.mktemp("speech")
    loud = (np.arange(120 * 16_000) // 8_000) % 2
    samples = np.random.default_rng(0).normal(size=len(loud)) * loud * 0.2
    for name in ("train_a.wav", "held_a.wav"):
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return TakeSource(SpeechFolder.open(folder), seed=1)


def test_a_take_is_the_same_every_time_and_each_is_another(source):
    first, again, other = (video([source.take(index)], INDEX, (64, 64)) for index in (0, 0, 1))
    assert first.shape == (1, 3, 25, 64, 64)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.05


def test_the_mouth_opens_with_the_sound(source):
    take = source.take(0)
    loudness = take.sound.reshape(200, 640).std(1)
    assert np.corrcoef(loudness, take.mouth.opening)[0, 1] > 0.6


def test_the_picture_moves(source):
    frames = video([source.take(0)], INDEX, (64, 64))[0]
    assert (frames[:, 1:] - frames[:, :-1]).abs().mean() > 1e-3
    assert frames.abs().max() <= 1


def test_phrased_eyes_blink_where_the_voice_pauses(source):
    take = replace(source, phrased=True).take(0)
    shut = (take.pose.eyes < 0.3).nonzero()[:, 0]
    begun = shut[torch.cat([torch.tensor([True]), shut.diff() > 1])] - BLINK.index(min(BLINK)) + 1
    assert len(begun) >= 3 and begun.diff().min() >= 1.4 * 25
    for frame in begun.tolist():
        assert take.mouth.opening[max(0, frame - 3) : frame].mean() < 0.15
        assert take.mouth.opening[max(0, frame - 14) : frame - 3].max() > 0.3


def test_an_altered_take_has_one_other_look_in_all_its_frames(source):
    plain, altered = source.scene(0, (64, 64)), replace(source, altered=1.0).scene(0, (64, 64))
    (video, weight), (changed, bent) = plain.film(INDEX), altered.film(INDEX)
    assert torch.equal(altered.film(INDEX).video, changed)
    assert changed.shape == video.shape and changed.abs().max() <= 1 and bent.shape == weight.shape
    assert (changed - video).abs().mean() > 0.1 and (bent - weight).abs().max() > 0.1
    for frames in (changed, video):  # nothing of the change moves
        assert 1e-3 < frames.diff(dim=2).abs().mean() < 0.1
    name, still = source.take(0).alteration, video[:, :, :1].expand(-1, -1, 5, -1, -1)
    assert name is None and not Alteration.of("a").video(still).diff(dim=2).any()


def test_what_is_altered_depends_on_the_take():
    first, other = (Alteration.of("train", 1, index) for index in (0, 1))
    assert not torch.equal(first.colors, other.colors) and not torch.equal(first.bends[0], other.bends[0])
    grey = torch.full((1, 3, 1, 4, 4), 0.2)
    assert Alteration(first.colors, torch.zeros(3), first.bends).video(grey).std(1).max() < 1e-5  # grey stays grey


def test_a_wav_of_any_kind_is_read_and_a_damaged_one_is_named(tmp_path):
    samples = (8000 * np.sin(np.arange(8000) * 0.1)).astype(np.int16)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("adpcm_ms", rate=16_000)
        stream.codec_context.layout = "mono"
        resampler = av.AudioResampler("s16", "mono", 16_000, stream.codec_context.frame_size)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in (*resampler.resample(frame), None):
            container.mux(stream.encode(part))
    (recording,) = SpeechFolder.open(tmp_path).recordings
    shared = min(len(recording), len(samples))
    assert shared > 7000 and np.corrcoef(recording[:shared], samples[:shared])[0, 1] > 0.9
    (tmp_path / "a.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(InputError, match=r"a\.wav"):
        SpeechFolder.open(tmp_path)
