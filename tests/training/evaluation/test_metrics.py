"""Scores of courses that are known."""

import pytest
import torch

from livetalk_core.training.evaluation import metrics
from livetalk_core.training.evaluation.geometry import MIDDLE, Measures


def walk(frames: int, seed: int = 0) -> torch.Tensor:
    """A course without periods."""
    return torch.randn(frames, generator=torch.Generator().manual_seed(seed)).cumsum(0)


def still(frames: int, **changes: torch.Tensor) -> Measures:
    """An average face that only does what is named."""
    return Measures(*(value.expand(frames) for value in MIDDLE))._replace(**changes)


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_lag_of_the_mouth_is_found(lag):
    sound = walk(220)
    mouth = 0.3 * sound[10 - lag : 210 - lag] + 1
    assert metrics.best_lag(sound[10:210], mouth) == (lag, pytest.approx(1.0))


def test_unrelated_courses_hardly_correlate_and_a_still_mouth_not_at_all():
    steps = walk(2000).diff()
    assert abs(metrics.correlation(steps, walk(2000, 1).diff())) < 0.1
    assert metrics.correlation(steps, torch.zeros(len(steps))) == 0


def test_blinks_are_counted_and_sleep_is_none():
    eyes = torch.full((750,), 0.9)
    for start in (30, 200, 500):
        eyes[start : start + 5] = 0.1
    eyes[600:660] = 0.0
    assert metrics.blinks_per_minute(eyes) == pytest.approx(3 * 2)


def test_head_speed_is_that_of_the_head():
    seconds = torch.arange(100) / 25
    assert metrics.head_speed(still(100)).max() < 1e-4
    moving = metrics.head_speed(still(100, x=0.164 * seconds))
    assert torch.allclose(moving, torch.tensor(10.0), atol=1e-2)


def test_gaze_behind_closed_eyes_does_not_count():
    seconds = torch.arange(100) / 25
    assert metrics.gaze_motion(still(100, gaze=seconds)) == pytest.approx(1.0, rel=1e-3)
    jump = torch.where(torch.arange(100) == 50, 5.0, 0.0)
    eyes = torch.where((torch.arange(100) - 50).abs() <= 1, 0.0, 0.9)
    assert metrics.gaze_motion(still(100, gaze=jump, eyes=eyes)) == 0


def test_borders_are_set_against_the_rest():
    border = (torch.arange(60) % 20 == 0).float()
    assert metrics.at_borders(1 + border, border) == pytest.approx(2.0)
    assert metrics.at_borders(torch.ones(60), torch.zeros(60)) == 1
