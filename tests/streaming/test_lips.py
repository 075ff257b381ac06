"""The mouth moves with what is said and only with it, as the evaluation's measurer reads it off frames."""

import numpy as np
import pytest
import torch

from livetalk_core.checkpoints.nano import open_nano
from livetalk_core.media.audio import AudioSource, TensorAudio, open_audio
from livetalk_core.media.image import load_image, to_reference
from livetalk_core.shapes import frames_of_samples
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.features import MODES, offset_samples, speech_features
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.session import Frames, Session
from livetalk_core.training.evaluation.measurer import load_measurer

SHUT, SPEAKING = 0.08, 0.25
"""Mean opening of the mouth in digital silence, with room above it, and less than it is in speech (0.4)."""


class Stage:
    """The embedded model with the demo portrait, ready to speak."""

    def __init__(self, demo) -> None:
        self.model, self.measurer = open_nano("cpu", torch.float32), load_measurer()
        self.stream = self.model.preset.stream
        self.engine = LocalEngine(self.model.transformer, self.model.vae, torch.device("cpu"), self.stream.shift)
        portrait = to_reference(load_image(demo / "portrait.png"), self.stream.height, self.stream.width)
        clip, text = self.model.encode_image(portrait), self.model.encode_texts("A person is talking.")[0]
        self.avatar = prepare_avatar(portrait, clip, text, self.engine.encode, self.stream)

    @torch.inference_mode()
    def opening(self, source: AudioSource, mode: str = "window", offset: int = 0) -> np.ndarray:
        """Opening of the mouth in each frame, about 0..1."""
        frames = frames_of_samples(source.samples, source.sample_rate)
        plan = ChunkPlan.of(frames, self.stream, live=mode == "stream")
        features = speech_features(source, self.model.audio_encoder, plan, mode, offset)
        session = Session(self.engine, self.avatar, features, plan, self.stream)
        events = [event for event in session.run(session.start(0)) if isinstance(event, Frames)]
        return torch.cat([self.measurer.measure(event.frames).opening for event in events]).numpy()


@pytest.fixture(scope="module")
def demo(request):
    """Folder of the demo portrait and speech."""
    return request.config.rootpath / "demo"


@pytest.fixture(scope="module")
def stage(demo):
    return Stage(demo)


def room_tone(seconds: float, level_db: float) -> np.ndarray:
    """Noise at a level in dBFS: [1, samples] at 16 kHz."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * 16_000))
    return noise[None] * 10 ** (level_db / 20)


@pytest.mark.parametrize(("mode", "level"), zip(MODES, (-50, -60, -80), strict=True))
def test_mouth_stays_shut_on_room_tone(stage, mode, level):
    source = TensorAudio(torch.from_numpy(room_tone(1.2, level)), 16_000)
    assert stage.opening(source, mode).mean() < SHUT


def test_mouth_shuts_when_speech_has_left_the_live_window(stage, demo):
    speech = open_audio(demo / "speech.wav").read(0, 16_000, 16_000, mono=True)
    sound = room_tone(10.2, -60)
    sound[:, :16_000] += speech
    opening = stage.opening(TensorAudio(torch.from_numpy(sound), 16_000), "stream")
    assert opening[:25].mean() > SPEAKING
    assert opening[40:].mean() < SHUT


def test_out_of_phase_stereo_speaks(stage, demo):
    speech = open_audio(demo / "speech.wav").read(0, 32_000, 16_000, mono=True)
    waveform = torch.from_numpy(np.concatenate([speech, -speech]))
    assert stage.opening(TensorAudio(waveform, 16_000)).mean() > SPEAKING


@pytest.mark.parametrize("milliseconds", [200, -200])
def test_an_offset_moves_the_lips(stage, demo, milliseconds):
    """Above 0 they are early: what is shown at a moment is heard so much later."""
    source = TensorAudio(torch.from_numpy(open_audio(demo / "speech.wav").read(0, 64_000, 16_000, mono=True)), 16_000)
    plain, moved = (stage.opening(source, offset=offset_samples(each)) for each in (0, milliseconds))
    early = best_lag(moved, plain)
    assert abs(early * 40 - milliseconds) <= 40


def best_lag(a: np.ndarray, b: np.ndarray, most: int = 12) -> int:
    """Frames by which a is ahead of b."""
    fits = {}
    for lag in range(-most, most + 1):
        first, second = a[max(0, -lag) : len(a) - max(0, lag)], b[max(0, lag) : len(b) - max(0, -lag)]
        fits[lag] = np.corrcoef(first, second)[0, 1]
    return max(fits, key=lambda lag: fits[lag])
