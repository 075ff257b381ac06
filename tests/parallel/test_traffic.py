"""Bytes that leave a rank, counted where torch.distributed is called."""

from typing import NamedTuple

import pytest
import torch

from livetalk_core.parallel import collectives
from livetalk_core.parallel.traffic import ALL_TO_ALL, GATHER, HOPS, counted


class Group(NamedTuple):
    count: int
    rank: int


class Nowhere:
    """In the place of torch.distributed; nothing arrives."""

    def get_world_size(self, group):
        return group.count

    def get_rank(self, group):
        return group.rank

    def all_to_all_single(self, *_, **__):
        return self

    def gather(self, *_, **__):
        pass

    def wait(self):
        pass


@pytest.fixture
def sent():
    nowhere = Nowhere()
    with counted(nowhere, nowhere.gather) as counts:
        yield counts


def test_what_a_rank_keeps_is_not_sent(sent):
    collectives.exchange(torch.zeros(4, 10), Group(4, 1))
    assert sent == {ALL_TO_ALL: 3 * 10 * 4}


def test_a_hop_is_all_of_it(sent):
    collectives.pass_on(torch.zeros(5, 3, dtype=torch.bfloat16), Group(3, 2))()
    assert sent == {HOPS: 5 * 3 * 2}


@pytest.mark.parametrize(("rank", "edges"), [(0, 1), (1, 2), (2, 1)])
def test_edges_go_to_neighbours(sent, rank, edges):
    collectives.send_edges(torch.zeros(7), torch.zeros(7), Group(3, rank))
    assert sent == {HOPS: edges * 7 * 4}


def test_what_all_get_is_sent_to_each(sent):
    collectives.gather(torch.zeros(6), Group(5, 0))
    collectives.gather_uneven(torch.zeros(2, 1), 1, [3, 1], Group(2, 1))  # padded to the longest
    assert sent == {GATHER: 4 * 6 * 4 + 2 * 3 * 4}


def test_nothing_is_counted_afterwards():
    calls, gather = collectives.dist, collectives._all_gather
    with counted():
        assert collectives.dist is not calls
    assert collectives.dist is calls and collectives._all_gather is gather
