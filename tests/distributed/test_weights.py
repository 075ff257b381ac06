"""Sharded weights: the same output, and no rank holds more than its share and a block."""

import pytest
import rank_checks as checks
import torch

from livetalk_core.hardware.memory import weight_bytes
from livetalk_core.models.transformer import Transformer
from livetalk_core.parallel.weights import sharded_bytes
from livetalk_core.presets import PRESETS

COUNTS = (1, 2, 3, 5)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("speakers", [1, 2])
def test_the_output_is_the_whole_ones(ranks, count, speakers):
    assert max(ranks(count).run(checks.sharded_error, (2, 3, 4), speakers)) <= 1e-5


@pytest.mark.parametrize("count", COUNTS)
def test_a_rank_holds_what_was_counted(ranks, count):
    for (at_rest, gathered), found in ranks(count).run(checks.held_bytes):
        assert found[0] == at_rest and found[1] <= gathered


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("preset", "most"), [("14b", 1.005), ("nano", 1.11)])
def test_a_rank_needs_its_share_and_less_than_a_block(preset, most, count):
    """Biases, norms and small layers stay whole: next to nothing in the 14B model, a tenth of a share in the small."""
    with torch.device("meta"):
        model = Transformer(PRESETS[preset].transformer, dtype=torch.bfloat16)
    whole, block = weight_bytes(model), weight_bytes(model.blocks[0])
    at_rest, gathered = sharded_bytes(model, count)
    assert at_rest <= most * whole / count
    assert at_rest + gathered <= 1.1 * whole / count + block


@pytest.mark.parametrize("count", COUNTS)
def test_patches_reach_what_is_sharded_and_come_off_again(ranks, count):
    for error, change, left in ranks(count).run(checks.patched_error):
        assert change > 1e-2
        assert error <= 1e-5 and left <= 1e-5


@pytest.mark.parametrize(
    ("hosts", "free", "over"),
    [
        ("aabb", (2, 2, 2, 2), [2, 2, 2, 2]),
        ("abab", (2, 2, 2, 2), [2, 2, 2, 2]),
        ("aaab", (3, 3, 3, 3), [3, 3, 3, 1]),
        ("aaaa", (2, 2, 2, 2), [4, 4, 4, 4]),
        ("aabb", (2, 2, 2, 1), [4, 4, 4, 4]),
    ],
)
def test_each_host_keeps_a_whole_model_where_all_have_the_room(ranks, hosts, free, over):
    """Half of what is free is left to the work: one rank that has not the room has all of them share.

    Each sends its part to the others of its group alone; what is left is the tokens that all put together.
    """
    for (size, error, sent), expected in zip(ranks(4).run(checks.shared_by_hosts, hosts, free), over, strict=True):
        assert size == expected and error <= 1e-5
        assert 0.85 * (1 - 1 / size) <= sent <= 1 - 1 / size + 0.02


def test_every_group_waits_longer_than_the_controller(ranks):
    """Two hours, in groups of some ranks too, whose own default is half an hour."""
    assert ranks(4).run(checks.limits_of_groups) == [{7200.0}] * 4


def test_a_wrong_share_is_noticed(ranks):
    assert min(ranks(2).run(checks.wrong_shard_error)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("ulysses", [1, 2])
@pytest.mark.parametrize("speakers", [1, 2])
def test_collectives_keep_the_compiled_graph_whole(ranks, ulysses, speakers):
    assert max(ranks(2).run(checks.compiled_error, ulysses, speakers)) <= 1e-5
