"""Lip sync without weights, seams, and the networks that a user brings, on courses that are known."""

import numpy as np
import pytest
import torch
from torch import nn

from livetalk_core.errors import CheckpointError
from livetalk_core.training.detection import Face
from livetalk_core.training.evaluation.renders.mfcc import mfcc
from livetalk_core.training.evaluation.renders.networks import Embedder, SyncJudge, open_network
from livetalk_core.training.evaluation.renders.seams import seams_of
from livetalk_core.training.evaluation.renders.sync import lip_sync
from livetalk_core.training.evaluation.renders.views import Follower

CHANCE = torch.Generator().manual_seed(0)


def opening(frames: int) -> torch.Tensor:
    """A course like speech's: syllables and pauses."""
    course = torch.randn(frames, generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.avg_pool1d(course[None, None], 5, 1, 2)[0, 0]
    return (smooth * 1.5).clamp(0, 1)


@pytest.mark.parametrize("lag", [-7, 0, 5])
def test_the_mouth_foretells_its_sound_at_its_lag(lag):
    sound = opening(320)
    pattern = torch.randn(40, generator=torch.Generator().manual_seed(1))
    sway = torch.randn(320, 1, generator=torch.Generator().manual_seed(2)).cumsum(0) * 0.02
    mouth = sound.roll(lag)[:, None] * pattern * 0.1 + sway + 0.02 * torch.randn(320, 40, generator=CHANCE)
    sync = lip_sync(mouth, sound)
    assert sync.lag == lag and sync.score > 0.9 and sync.confidence > 0.5


@pytest.mark.parametrize("frames", [100, 400])
def test_a_mouth_that_moves_otherwise_scores_little(frames):
    mouth = torch.nn.functional.avg_pool1d(torch.randn(1, 40, frames, generator=CHANCE), 5, 1, 2)[0].T
    assert lip_sync(mouth, opening(frames)).score < (0.45 if frames == 100 else 0.25)


def test_a_mouth_that_goes_on_in_silence_is_told():
    sound = opening(300)
    mouth = sound[:, None] * torch.ones(300, 4)
    babbling = torch.rand(300, 4, generator=CHANCE)
    quiet, loud = lip_sync(mouth, sound).silent_motion, lip_sync(babbling, sound).silent_motion
    assert quiet is not None and loud is not None
    assert quiet < 0.6 < 0.8 < loud


@pytest.mark.parametrize("period", [28, 72])
def test_regular_seams_are_found_with_their_period(period):
    change = 0.5 + 0.2 * torch.rand(period * 12, generator=CHANCE)
    assert seams_of(change).period is None
    change[period::period] *= 1.8
    seams = seams_of(change)
    assert seams.period == period
    assert seams.liveliness == pytest.approx(1.8, rel=0.15)
    change[101] = 6.0
    assert seams_of(change).jumps == pytest.approx(60 * 25 / (len(change) - 1))


def test_a_face_is_followed_where_it_goes():
    picture = torch.nn.functional.interpolate(torch.randn(1, 3, 24, 24, generator=CHANCE), (160, 160), mode="bicubic")
    reference = picture.transpose(0, 1).clamp(-1, 1)
    follower = Follower.of(reference, Face(50, 50, 60, 60))
    frames = torch.cat([reference.roll(shifts, dims=(2, 3)) for shifts in ((0, 0), (4, -7), (-10, 12))], dim=1)
    offsets, known = follower.follow(frames)
    assert torch.allclose(offsets, torch.tensor([[0.0, 0.0], [-7.0, 4.0], [12.0, -10.0]]), atol=0.5)
    assert known.min() > 0.95
    assert follower.follow(torch.randn(3, 2, 160, 160, generator=CHANCE))[1].max() < 0.4
    mouths = follower.mouth(frames, offsets)
    assert torch.allclose(mouths, mouths[:1].expand_as(mouths), atol=0.1), "what is cut out moves with the face"


def test_the_features_of_sound_are_syncnets():
    """Values of python_speech_features.mfcc on the same sound."""
    time = np.arange(16_000) / 16_000
    sound = 8000 * np.sin(2 * np.pi * (200 + 300 * time) * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2
    features = mfcc(sound)
    assert features.shape == (99, 13)
    expected = [
        19.0983, 21.6868, 4.7984, -11.611, -25.1564, -31.7095, -27.6423, -16.2126, -0.7493, 11.9405, 18.8725, 17.2484,
        9.6841,
    ]  # fmt: skip
    assert features[40] == pytest.approx(expected, abs=1e-3)


class Mean(nn.Module):
    """A judge of nothing but brightness over time: [B,...] -> [B,n]."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).unflatten(1, (self.parts, -1)).mean(2)


def scripted(tmp_path, name: str, parts: int, example: torch.Tensor):
    path = tmp_path / name
    torch.jit.trace(Mean(parts), example).save(str(path))
    return open_network(path)


def test_networks_of_the_users_are_asked(tmp_path):
    """Lips and sound that say the same, five frames apart: the least distance is at that lag."""
    frames, lag, level = 120, 5, torch.rand(120, generator=CHANCE)
    pictures = (level[None, :, None, None] * 2 - 1).expand(3, -1, 64, 64)
    lips = scripted(tmp_path, "lips.pt", 1, torch.zeros(1, 3, 5, 224, 224))
    face = Face(16, 16, 32, 32)
    windows = level.unfold(0, 5, 1).mean(1)

    def hear(batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[255 * float(windows[min(hear.count + lag, len(windows) - 1)])]])

    hear.count = 0

    def sound(batch: torch.Tensor) -> torch.Tensor:
        assert batch.shape == (1, 1, 13, 20)
        value = hear(batch)
        hear.count += 1
        return value

    judge = SyncJudge(lips, sound, face)
    for part in torch.arange(frames).split(50):
        judge.add(pictures[:, part], torch.zeros(len(part), 2))
    scores = judge.scores(torch.randn(frames * 640, generator=CHANCE))
    assert scores.lag == lag and scores.distance < 1 < scores.confidence
    embedder = Embedder.of(scripted(tmp_path, "embed.pt", 4, torch.zeros(1, 3, 112, 112)), face, pictures[:, :1])
    assert embedder.similarity(pictures[:, :3], torch.zeros(3, 2)).shape == (3,)
    assert float(embedder.similarity(pictures[:, :1], torch.zeros(1, 2))) == pytest.approx(1.0)


def test_files_that_hold_no_network_are_named(tmp_path):
    (tmp_path / "none.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_network(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no network at"):
        open_network(tmp_path / "missing.pt")
