"""The LTX VAE split over rows gives what the whole one gives: both directions, more rows than ranks or fewer."""

import pytest
import rank_checks as checks

COUNTS = (1, 2, 3, 4)
SHAPES = [(1, 3, 2), (2, 2, 1), (2, 4, 1), (3, 1, 1)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_directions_are_the_whole_ones(ranks, count, shape):
    assert max(max(errors) for errors in ranks(count).run(checks.ltx_errors, shape)) <= 1e-5


def test_borders_that_are_not_exchanged_are_noticed(ranks):
    for *split, alone in ranks(2).run(checks.ltx_errors_without_borders, (2, 2, 1)):
        assert min(split) > 1e-3 and alone <= 1e-5
