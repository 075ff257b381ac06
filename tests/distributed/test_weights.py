"""Sharded weights: the same output, and no rank holds more than its share and a block."""

import pytest
import rank_checks as checks

COUNTS = (1, 2, 3, 5)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("speakers", [1, 2])
def test_the_output_is_the_whole_ones(ranks, count, speakers):
    assert max(ranks(count).run(checks.sharded_error, (2, 3, 4), speakers)) <= 1e-5


@pytest.mark.parametrize("count", COUNTS)
def test_a_rank_holds_its_share_and_at_most_a_block(ranks, count):
    for whole, block, at_rest, extra in ranks(count).run(checks.sharded_bytes):
        small = 0.1 * whole  # norms and biases stay whole: in this narrow model they weigh more than in a real one
        assert at_rest <= whole / count + small
        assert extra <= block


def test_a_wrong_share_is_noticed(ranks):
    assert min(ranks(2).run(checks.wrong_shard_error)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("ulysses", [1, 2])
@pytest.mark.parametrize("speakers", [1, 2])
def test_collectives_keep_the_compiled_graph_whole(ranks, ulysses, speakers):
    assert max(ranks(2).run(checks.compiled_error, ulysses, speakers)) <= 1e-5
