"""Where one picture's parts are found in another."""

import pytest
import torch
from torch.nn import functional as F

from livetalk_core.models.displacement import displacement, moved


def picture(side: int = 96) -> torch.Tensor:
    """Something with structure everywhere: [1,3,H,W] in -1..1."""
    noise = torch.randn(1, 3, side // 6, side // 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(side, side), mode="bicubic").clamp(-2, 2) / 2


def off(found: torch.Tensor, x: float, y: float) -> float:
    """The mean error of a field, in pixels, away from the border."""
    inner = found[..., 16:-16, 16:-16] - torch.tensor([x, y])[:, None, None]
    return float(inner.norm(dim=1).mean())


@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 0), (-3, 7), (0, -8)])
def test_a_shift_is_found(x, y):
    here = picture()
    assert off(displacement(here, here.roll((y, x), (2, 3))), x, y) < 0.3


def test_light_colour_and_contrast_do_not_matter():
    here = picture()
    there = (here * torch.tensor([0.5, 0.8, 0.6])[:, None, None] + 0.3).roll(4, 3)
    assert off(displacement(here, there), 4, 0) < 0.3


def test_an_enlarged_picture_is_brought_back():
    here = picture()
    large = F.interpolate(here, scale_factor=1.15, mode="bicubic")[..., 7:103, 7:103]
    back = moved(large, displacement(here, large))
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    assert (back - here)[inner].square().mean() < 0.02 * (large - here)[inner].square().mean()


def test_other_sizes_and_several_pictures_at_once():
    here = F.interpolate(picture(), size=(80, 240))
    both = torch.cat([here, here.roll(6, 3)])
    fields = displacement(here.expand(2, -1, -1, -1), both)
    assert fields.shape == (2, 2, 80, 240)
    assert off(fields[:1], 0, 0) < 0.1 and off(fields[1:], 6, 0) < 0.6


def test_nothing_in_the_picture_moves_nothing():
    plain = torch.zeros(1, 3, 40, 40)
    assert not displacement(plain, plain).any()
    assert displacement(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)).isfinite().all()
