"""Ranks as a mesh: `ulysses` neighbours share the heads, `ring` such groups share the keys.

Rank r holds share r of the sequence. Ranks u*ulysses .. (u+1)*ulysses - 1 form one Ulysses group, on the fastest
links; those of equal place in their groups form a ring.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, cast

import torch
import torch.distributed as dist

from ..errors import InputError
from .collectives import Group
from .meeting import COLLECTIVE_TIMEOUT, try_out

CPU = torch.device("cpu")


def degrees(ranks: int, heads: int) -> list[tuple[int, int]]:
    """Every (ulysses, ring) that `ranks` and `heads` allow, the default (most Ulysses) first."""
    if ranks < 1:
        raise InputError(f"{ranks} ranks; at least 1 is needed")
    common = math.gcd(ranks, heads)
    return [(ulysses, ranks // ulysses) for ulysses in range(common, 0, -1) if common % ulysses == 0]


def default_ulysses(heads: int, hosts: Sequence[str]) -> int:
    """The most Ulysses that `heads` allow within hosts, given each rank's: its exchange waits for the slowest link.

    The ring, whose transfers run beside attention, goes from host to host.
    """
    runs = [len(list(ranks)) for _, ranks in groupby(hosts)]
    return math.gcd(heads, *runs)


@dataclass(frozen=True)
class Mesh:
    """This process's place in a mesh, and the groups that it talks to."""

    ulysses: int
    ring: int
    rank: int
    group: Group
    ulysses_group: Group
    ring_group: Group

    @classmethod
    def of(cls, heads: int, ulysses: int | None = None, device: torch.device = CPU) -> "Mesh":
        """The mesh of all processes, made by all of them together; `ulysses` as given or the default.

        Each group exchanges something on `device`, so that it is known to work.
        """
        ranks, rank = dist.get_world_size(), dist.get_rank()
        fitting = degrees(ranks, heads)
        wide = fitting[0][0] if ulysses is None else ulysses
        if wide not in (degree for degree, _ in fitting):
            names = ", ".join(str(degree) for degree, _ in fitting)
            raise InputError(f"Ulysses degree {wide} on {ranks} ranks with {heads} heads; possible: {names}")
        neighbours = [range(start, start + wide) for start in range(0, ranks, wide)]
        rings = [range(place, ranks, wide) for place in range(wide)]
        mesh = cls(
            wide,
            ranks // wide,
            rank,
            group_of(range(ranks)),
            [group_of(each) for each in neighbours][rank // wide],
            [group_of(each) for each in rings][rank % wide],
        )
        for group in (mesh.ulysses_group, mesh.ring_group):
            try_out(group, device)
        return mesh

    @property
    def ranks(self) -> int:
        """Processes in the mesh."""
        return self.ulysses * self.ring

    @property
    def ring_rank(self) -> int:
        """Which Ulysses group this process is in."""
        return self.rank // self.ulysses

    @property
    def ulysses_rank(self) -> int:
        """This process's place in its Ulysses group."""
        return self.rank % self.ulysses


def group_of(members: Iterable[int]) -> Group:
    """The process group of these ranks. All processes must call it, in the same order; its members may use it.

    The same ranks are one group however often it is asked for: each has connections, and on GPUs memory, of its own.
    """
    ranks = tuple(members)
    if ranks == tuple(range(dist.get_world_size())):
        return cast(Group, dist.group.WORLD)
    return _new_group(ranks)


def host_group(hosts: Sequence[str], device: torch.device) -> Group:
    """The process group of this process's host, given each rank's; it has exchanged something on `device`.

    All processes must call it.
    """
    ranks = [[rank for rank, host in enumerate(hosts) if host == name] for name in dict.fromkeys(hosts)]
    groups = [group_of(each) for each in ranks]
    own = next(group for group, each in zip(groups, ranks, strict=True) if dist.get_rank() in each)
    try_out(own, device)
    return own


@cache
def _new_group(ranks: tuple[int, ...]) -> Group:
    group = cast(Group, dist.new_group(list(ranks), timeout=COLLECTIVE_TIMEOUT))
    if dist.get_rank() in ranks:
        _made.append(group)
    return group


def end_groups() -> None:
    """End all process groups; others may be made afterwards."""
    _new_group.cache_clear()
    _made.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def exchanges() -> int:
    """How many exchanges this process has begun, in all of its groups: as long as it grows, ranks get on."""
    if not dist.is_initialized():
        return 0
    groups: list[Any] = [dist.group.WORLD, *_made]
    return sum(group._get_sequence_number_for_group() for group in groups)


_made: list[Group] = []
