"""Arithmetic of shapes."""

import pytest

from livetalk_core.errors import InputError
from livetalk_core.shapes import LTX, WAN, Geometry, VideoShape, frames_of_samples


def test_published_shape() -> None:
    latent = VideoShape(33, 768, 448).latent(WAN)
    assert latent == (9, 96, 56)
    assert latent.tokens(WAN) == 12_096
    assert latent.video(WAN) == (33, 768, 448)
    latent = VideoShape(33, 512, 512).latent(LTX)
    assert latent == (5, 16, 16)
    assert latent.tokens(LTX) == 1_280
    assert latent.video(LTX) == (33, 512, 512)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (640, 1), (641, 2), (16_000, 25), (16_001, 26)])
def test_speech_is_covered_to_the_frame(samples: int, frames: int) -> None:
    assert frames_of_samples(samples, 16_000) == frames


@pytest.mark.parametrize("size", [(100, 128), (0, 16), (128, 8)])
@pytest.mark.parametrize("geometry", [WAN, LTX])
def test_sizes_that_do_not_fit_name_the_nearest(geometry: Geometry, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="the nearest is"):
        geometry.check_size(*size)


def test_each_geometry_asks_for_its_own_multiples() -> None:
    WAN.check_size(432, 768)
    with pytest.raises(InputError, match="768x432 px; both sides must be multiples of 32: the nearest is 768x448"):
        LTX.check_size(432, 768)
    with pytest.raises(InputError, match=r"5 frames; the VAE needs 8n\+1"):
        LTX.latent_frames(5)
