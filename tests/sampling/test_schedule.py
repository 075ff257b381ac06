"""The schedule against the published figures."""

import itertools

import pytest

from livetalk_core.errors import InputError
from livetalk_core.sampling.schedule import Schedule, sigmas


def test_published_levels() -> None:
    assert sigmas(4, 5.0) == pytest.approx((1, 0.9375, 5 / 6, 0.625, 0))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_levels_fall_from_one_to_zero(steps: int) -> None:
    levels = sigmas(steps, 5.0)
    assert len(levels) == steps + 1
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    assert all(a > b for a, b in itertools.pairwise(levels))


def test_the_bridges_levels_are_above_its_timesteps() -> None:
    assert Schedule.of(1, 5.0, bridge=True) == ((1000.0,), (1.001, 0.0))
    timesteps, levels = Schedule.of(4, 5.0, bridge=True)
    assert timesteps == Schedule.of(4, 5.0).timesteps == pytest.approx((1000, 937.5, 2500 / 3, 625))
    assert levels == pytest.approx((*((t + 1) / 1000 for t in timesteps), 0))


def test_no_steps_is_refused() -> None:
    with pytest.raises(InputError, match="0 steps"):
        sigmas(0, 5.0)
