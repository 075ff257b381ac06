"""Sharpness and texture: what blur, noise and another face do to them."""

import torch

from livetalk_core.training.evaluation.accuracy import blur, noise
from livetalk_core.training.evaluation.evaluate import texture_scale
from livetalk_core.training.evaluation.picture import Moments, picture_distance, sharpness, texture

INDEX = torch.arange(0, 100, 5)


def moments(frames: torch.Tensor) -> Moments:
    gathered = Moments()
    gathered.add(texture(frames))
    return gathered


def test_blur_takes_sharpness_and_noise_adds_it(subjects):
    frames = subjects[0].drawn(INDEX)
    blurred, noisy = (sharpness(change(frames)) for change in (blur(1.0), noise(0.1)))
    assert (blurred < 0.8 * sharpness(frames)).all()
    assert (noisy > sharpness(frames)).all()


def test_moments_of_parts_are_those_of_the_whole(subjects):
    frames = subjects[0].drawn(INDEX)
    parts = moments(frames[:, :7]) + moments(frames[:, 7:])
    whole = moments(frames)
    assert torch.allclose(parts.mean, whole.mean)
    assert torch.allclose(parts.deviation, whole.deviation)


def test_picture_distance_grows_with_damage_and_with_another_face(subjects):
    scale = texture_scale((96, 96))
    own = subjects[0].texture()
    frames = subjects[0].drawn(INDEX)
    assert picture_distance(moments(frames), own, scale) < 1e-6
    little, much = (picture_distance(moments(blur(sigma)(frames)), own, scale) for sigma in (0.5, 1.0))
    assert 0.05 < little < much
    assert picture_distance(subjects[1].texture(), own, scale) > 0.5
