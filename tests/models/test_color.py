"""Colour transfer."""

import torch

from livetalk_core.models.color import ColorStatistics, lab_to_rgb, match_color, rgb_to_lab


def frames(seed: int, count: int = 2) -> torch.Tensor:
    return torch.rand(1, 3, count, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def test_lab_and_back() -> None:
    rgb = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=2e-4, rtol=0)


def test_known_colors() -> None:
    """White, black and the primary red, from CIE tables."""
    lab = rgb_to_lab(torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]])
    torch.testing.assert_close(lab, expected, atol=0.05, rtol=0)


def test_mean_follows_the_reference() -> None:
    reference = ColorStatistics.of(frames(0, 1) * 0.3 + 0.2)
    matched = ColorStatistics.of(match_color(frames(1) * 0.5, reference, 1.0))
    torch.testing.assert_close(matched.mean, reference.mean.expand_as(matched.mean), atol=0.3, rtol=0)


def test_strength_zero_changes_nothing() -> None:
    source = frames(1)
    assert match_color(source, ColorStatistics.of(frames(0, 1)), 0.0) is source


def test_flat_frames_stay_finite() -> None:
    flat = torch.full((1, 3, 1, 8, 8), 0.25)
    assert match_color(flat, ColorStatistics.of(frames(0, 1)), 1.0).isfinite().all()


def test_each_frame_is_measured_on_its_own() -> None:
    """Streamed group by group, the result is that of the whole chunk."""
    reference, source = ColorStatistics.of(frames(0, 1)), frames(1, 5)
    whole = match_color(source, reference, 1.0)
    parts = [match_color(group, reference, 1.0) for group in source.split([1, 4], dim=2)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=2))
