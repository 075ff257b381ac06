"""The schedule against the published figures."""

import itertools

import pytest

from livetalk_core.errors import InputError
from livetalk_core.sampling.schedule import sigmas


def test_published_levels() -> None:
    assert sigmas(4, 5.0) == pytest.approx((1, 0.9375, 5 / 6, 0.625, 0))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_levels_fall_from_one_to_zero(steps: int) -> None:
    levels = sigmas(steps, 5.0)
    assert len(levels) == steps + 1
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    assert all(a > b for a, b in itertools.pairwise(levels))


def test_no_steps_is_refused() -> None:
    with pytest.raises(InputError, match="0 steps"):
        sigmas(0, 5.0)
