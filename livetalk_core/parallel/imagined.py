"""One of several ranks, without processes: what it would compute, send and hold, on the meta device."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..hardware.memory import as_needed, meta_attend, meta_kept, meta_models, meta_works, peak_bytes, weight_bytes
from ..models.attention import attend
from ..presets import Preset
from . import sequence
from .mesh import Mesh
from .rows import Split, share_rows
from .sequence import split_sequence
from .traffic import counted
from .vae import split_vae


class Ranks(NamedTuple):
    """Stands in for a process group."""

    count: int
    rank: int


class Nowhere:
    """Stands in for torch.distributed: moves nothing."""

    def get_world_size(self, group: Ranks) -> int:
        """See torch.distributed."""
        return group.count

    def get_rank(self, group: Ranks) -> int:
        """See torch.distributed."""
        return group.rank

    def all_to_all_single(self, *_: Any, **__: Any) -> "Nowhere":
        """Nothing is received, and can be waited for."""
        return self

    def all_gather(self, *_: Any, **__: Any) -> "Nowhere":
        """Nothing is received, and can be waited for."""
        return self

    def all_reduce(self, *_: Any, **__: Any) -> None:
        """Nothing is summed."""

    def wait(self) -> None:
        """Nothing is under way."""


def _attend_partly(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> tuple[Tensor, Tensor]:
    """`attend_partly` as a fused kernel has it: the log of sums is made on the way."""
    return attend(q_BLND, k_BSND, v_BSND), q_BLND.new_empty(q_BLND.shape[:3], dtype=torch.float32)


@contextmanager
def imagining() -> Iterator[Counter[str]]:
    """Collectives are noted, as in `traffic.counted`, instead of run."""
    nowhere, before = Nowhere(), sequence.attend_partly
    sequence.attend_partly = _attend_partly
    try:
        with counted(nowhere, nowhere.all_gather) as sent:
            yield sent
    finally:
        sequence.attend_partly = before


def imagined_mesh(ulysses: int, ring: int, rank: int = 0) -> Mesh:
    """A rank's place in a mesh whose groups are `Ranks`."""
    groups: list[Any] = [Ranks(ulysses * ring, rank), Ranks(ulysses, rank % ulysses), Ranks(ring, rank // ulysses)]
    return Mesh(ulysses, ring, rank, *groups)


@cache
def rank_memory(
    preset: Preset, height: int, width: int, dtype: torch.dtype, ulysses: int, ring: int, fp8: bool = False
) -> dict[str, int]:
    """As `memory_of`, of the first rank of a mesh, which holds all weights and at least as many rows as any other."""
    with imagining():
        transformer, vae = meta_models(preset, dtype, fp8)
        split_sequence(transformer, imagined_mesh(ulysses, ring))
        split: Any = split_vae(vae)
        shares = Ranks(ulysses * ring, 0)
        split.split = lambda rows: _split(rows, shares, split.stride)
        works = meta_works(preset, height, width, dtype, meta_attend, (transformer, split))
        working = {part: peak_bytes(work) for part, work in works.items()}
        context = peak_bytes(lambda: meta_kept(transformer, preset, height, width))
    weights = {"transformer weights": weight_bytes(transformer), "VAE weights": weight_bytes(vae)}
    return as_needed(weights, context, working)


def _split(rows: int, ranks: Ranks, stride: int) -> Split:
    """See `RowExchange.split`."""
    shares = share_rows(rows, ranks.count)
    everyone: Any = ranks
    working: Any = Ranks(sum(share > 0 for share in shares), ranks.rank)
    return Split(shares, ranks.rank, everyone, working, stride)
