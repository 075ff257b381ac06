"""The split transformer gives what the whole one gives: any mesh, any grid, one speaker or two."""

import pytest
import rank_checks as checks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from livetalk_core.errors import InputError
from livetalk_core.parallel.mesh import default_ulysses, degrees
from livetalk_core.shapes import LTX, WAN

COUNTS = (1, 2, 3, 4, 5, 8)
HEADS = 4
MESHES = [(count, ulysses) for count in COUNTS for ulysses, _ in degrees(count, HEADS)]
GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(3, 5))


def test_the_default_degree_is_the_largest_that_divides_the_heads():
    assert [degrees(ranks, 40)[0] for ranks in (1, 2, 3, 4, 5, 6, 7, 8)] == [
        (1, 1), (2, 1), (1, 3), (4, 1), (5, 1), (2, 3), (1, 7), (8, 1),
    ]  # fmt: skip
    assert degrees(8, 12) == [(4, 2), (2, 4), (1, 8)]
    with pytest.raises(InputError, match="at least 1"):
        degrees(0, 4)


def test_between_hosts_goes_the_ring():
    assert default_ulysses(40, ["one"] * 4) == 4
    assert default_ulysses(40, ["one"] * 2 + ["two"] * 2) == 2
    assert default_ulysses(40, ["one"] * 4 + ["two"] * 2) == 2
    assert default_ulysses(40, ["one", "two", "one", "two"]) == 1, "ranks of a host that are no neighbours"
    assert default_ulysses(40, ["one"] * 3) == 1


@pytest.mark.parametrize(("count", "ulysses"), MESHES)
def test_the_output_is_the_whole_ones(ranks, count, ulysses):
    @settings(max_examples=4)
    @given(GRIDS, st.sampled_from([1, 2]))
    def check(grid, speakers):
        assert max(ranks(count).run(checks.transformer_error, HEADS, ulysses, grid, speakers)) <= 1e-5

    check()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("geometry", [WAN, LTX], ids=["pro", "lite"])
def test_flashheads_output_is_the_whole_ones(ranks, count, geometry):
    """Twelve heads, as published."""
    for ulysses, _ in degrees(count, 12):
        assert max(ranks(count).run(checks.sound_error, geometry, 12, ulysses, (2, 3, 3))) <= 1e-5


@pytest.mark.slow
def test_the_published_size_works_on_five_ranks(ranks):
    """12,096 tokens, which neither 5 ranks nor their heads divide."""
    assert max(ranks(5).run(checks.published_error)) <= 1e-5


def test_splitting_again_takes_no_more_groups(ranks):
    """Each has sockets, and on GPUs memory: a worker that is given another VAE must not gather them."""
    assert ranks(4).run(checks.groups_made_again) == [0, 0, 0, 0]


@pytest.mark.parametrize("heads", [3, 5])
def test_an_odd_head_places_no_speaker(ranks, heads):
    for ulysses in (1, heads):
        assert max(ranks(heads).run(checks.transformer_error, heads, ulysses, (2, 3, 4), 2)) <= 1e-5


@pytest.mark.parametrize(("count", "ulysses"), [mesh for mesh in MESHES if mesh[0] in (5, 8)])
@pytest.mark.parametrize("speakers", [1, 2])
def test_padding_is_not_felt(ranks, count, ulysses, speakers):
    for padding in (float("nan"), 1e6):
        grid = (3, 3, 3)
        assert not any(ranks(count).run(checks.padding_is_felt, HEADS, ulysses, grid, speakers, padding))


@settings(max_examples=20)
@given(st.sampled_from(MESHES), GRIDS)
def test_unsplit_of_split_is_the_same(ranks, mesh, grid):
    count, ulysses = mesh
    assert all(ranks(count).run(checks.joined_is_whole, ulysses, grid))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_sent_as_fp8_is_near(ranks, dtype):
    for error, same_dtype in ranks(2).run(checks.sent_as_fp8, (3, 4, 16), dtype):
        assert same_dtype and 1e-3 < error <= 1 / 24  # half a step of three bits beside the largest value


@pytest.mark.parametrize(("count", "ulysses"), [(1, 1), (2, 2), (2, 1), (4, 2), (5, 1)])
def test_ranks_that_send_fp8_come_close(ranks, count, ulysses):
    for grid, speakers in (((2, 3, 4), 1), ((3, 3, 3), 2)):
        errors = ranks(count).run(checks.fp8_error, ulysses, grid, speakers)
        assert max(errors) <= (0.03 if count > 1 else 1e-6)
        assert count == 1 or min(errors) > 1e-4, "nothing was sent as FP8"


@pytest.mark.parametrize(("count", "ulysses"), [(1, 1), (2, 2), (4, 4), (4, 2), (2, 1)])
def test_pieces_change_no_bit(ranks, count, ulysses):
    """With a ring beside it to rounding: where a value stands decides how its exponential is rounded in the merge."""
    for pieces, speakers in ((2, 2), (3, 1), (9, 1)):
        errors = ranks(count).run(checks.pieces_error, 8, ulysses, pieces, (2, 3, 5), speakers)
        assert max(errors) <= (1e-6 if 1 < ulysses < count else 0)


LAYERS = checks.WIDTHS["num_layers"]


@pytest.mark.parametrize(
    ("count", "ulysses", "pieces", "meanwhile", "exchanges"),
    [(2, 2, 1, 0, 2), (2, 2, 2, 2, 4), (2, 2, 4, 4, 8), (2, 1, 1, 1, 3), (4, 2, 2, 4, 6)],
    ids=["ulysses in one", "in two pieces", "in four", "ring", "both"],
)
def test_attention_runs_while_ranks_exchange(ranks, count, ulysses, pieces, meanwhile, exchanges):
    """Of each block: attention to the pieces, all of them while others are under way; in a ring, to all but the last
    keys; of a mesh of both, all of that.
    """
    found = ranks(count).run(checks.attended_meanwhile, 8, ulysses, pieces)
    assert found == [(LAYERS * meanwhile, LAYERS * exchanges)] * count


@pytest.mark.parametrize(("count", "ulysses"), [(2, 2), (3, 3), (5, 1)])
def test_what_a_rank_holds_is_counted_without_it(ranks, count, ulysses):
    """But for what a CPU's RMS norm, which is made of several operations, holds on its way, and for what gloo's own
    threads let go of a little later.
    """
    for held, counted in ranks(count).run(checks.held_in_a_step, ulysses, 64):
        assert counted <= held <= 1.5 * counted


def test_a_wrong_split_is_noticed(ranks):
    """The comparison itself: a share that reads its neighbour's place fails."""
    assert min(ranks(2).run(checks.misplaced_error, HEADS, (2, 3, 4))) > 1e-3


def test_a_degree_that_cannot_work_is_refused(ranks):
    message = ranks(2).run(checks.mesh_error, 3, 2)[0]
    assert "Ulysses degree 2 on 2 ranks with 3 heads; possible: 1" in message
