"""Arithmetic of shapes."""

import pytest

from livetalk_core.errors import InputError
from livetalk_core.shapes import VideoShape, check_size, frames_of_samples


def test_published_shape() -> None:
    latent = VideoShape(33, 768, 448).latent
    assert latent == (9, 96, 56)
    assert latent.tokens == 12_096
    assert latent.video == (33, 768, 448)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (641, 2), (16_000, 25), (16_001, 26)])
def test_speech_is_covered_to_the_frame(samples: int, frames: int) -> None:
    assert frames_of_samples(samples, 16_000) == frames


@pytest.mark.parametrize("size", [(100, 128), (0, 16), (128, 8)])
def test_sizes_that_do_not_fit_name_the_nearest(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="the nearest is"):
        check_size(*size)
