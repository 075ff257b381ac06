"""Sharded weights: each rank keeps a part of every linear layer's weight, and gathers the whole while it is used.

Applied from outside to a built model. While a layer computes, the next one's weight is on its way; which one comes
next is learnt from the last pass. So a rank holds its share, and two layers' weights at most: less than one block.

Not FSDP2: that gathers whole modules around their `forward`, while this model's contexts are computed outside it;
and it works neither in inference mode nor with FP8 weights beside others.
"""

from math import prod
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..hardware.memory import weight_bytes
from .collectives import Group, gather_soon
from .prefetch import Arrival, Prefetcher, fetch_weight

SMALLEST = 1024
"""Linear weights of fewer elements stay whole on every rank, as all that is no linear layer's weight does."""


class Layer:
    """One layer's weight: this rank's part of it, as bytes, so that every dtype is sent alike."""

    def __init__(self, weight: Tensor, device: torch.device, group: Group) -> None:
        ranks, rank = group.size(), group.rank()
        self.shape, self.dtype, self._group = weight.shape, weight.dtype, group
        elements = -(-weight.numel() // ranks)
        own = weight.detach().flatten()[rank * elements : (rank + 1) * elements]
        self.part = torch.zeros(elements, dtype=weight.dtype, device=device)
        self.part[: len(own)] = own

    def fetch(self) -> Arrival:
        """See `Source.fetch`."""
        whole = gather_soon(self.part.view(torch.uint8), self._group)
        return lambda: whole().view(self.dtype)[: prod(self.shape)].view(self.shape)


def is_sharded(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module's weight is split over the ranks."""
    return isinstance(module, nn.Linear) and module.weight.numel() >= SMALLEST


def sharded_bytes(model: nn.Module, ranks: int) -> tuple[int, int]:
    """Bytes of a whole model's weights that each of so many ranks would hold: at rest, and at most gathered beside."""
    split = [module.weight for module in model.modules() if is_sharded(module)]
    whole = weight_bytes(model) - sum(weight.nbytes for weight in split)
    parts = sum(-(-weight.numel() // ranks) * weight.itemsize for weight in split)
    return whole + parts, sum(sorted(weight.nbytes for weight in split)[-2:])


def shard_weights(model: nn.Module, device: torch.device, group: Group) -> nn.Module:
    """Leave each rank of `group` its part of the linear weights of `model`, and put everything on `device`.

    `model` may lie in main memory, mapped from its file: no more than the part is copied. Its layers must be called
    (not their functions), and in the same order on all ranks.
    """
    prefetcher = Prefetcher()
    for module in model.modules():
        if is_sharded(module):
            fetch_weight(module, Layer(module.weight, device, group), prefetcher)
    return model.to(device)
