"""Sharded weights: each rank keeps a part of every linear layer's weight, and gathers the whole while it is used.

Applied from outside to a built model. While a layer computes, the next one's weight is on its way; which one comes
next is learnt from the last pass. So a rank holds its share, and two layers' weights at most: less than one block.

On several hosts the ranks of each share a whole model where that fits: no weight waits for a link between hosts.

Not FSDP2: that gathers whole modules around their `forward`, while this model's contexts are computed outside it;
and it works neither in inference mode nor with FP8 weights beside others.
"""

from math import prod
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..hardware.machine import available_memory
from .collectives import Group, gather_soon, least
from .prefetch import Arrival, Prefetcher, fetch_weight

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
LEFT = 1 / 2
"""Of a device's free memory, what weights are to leave to the work where a host keeps a whole model."""
SMALLEST = 1024
"""Linear weights of fewer elements stay whole on every rank, as all that is no linear layer's weight does."""


class Layer:
    """One layer's weight: this rank's part of it, as bytes, so that every dtype is sent alike."""

    def __init__(self, weight: Tensor, device: torch.device, group: Group, dtype: torch.dtype | None = None) -> None:
        ranks, rank = group.size(), group.rank()
        self.shape, self.dtype, self._group = weight.shape, kept_dtype(weight, dtype), group
        elements = -(-weight.numel() // ranks)
        own = weight.detach().flatten()[rank * elements : (rank + 1) * elements]
        self.part = torch.zeros(elements, dtype=self.dtype, device=device)
        self.part[: len(own)] = own

    def fetch(self) -> Arrival:
        """See `Source.fetch`."""
        gathered = gather_soon(self.part.view(torch.uint8), self._group)
        return lambda: gathered().view(self.dtype)[: prod(self.shape)].view(self.shape)


def is_sharded(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module's weight is split over the ranks."""
    return isinstance(module, nn.Linear) and module.weight.numel() >= SMALLEST


def bytes_as(tensor: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes of a weight once it is placed as `dtype`."""
    return tensor.numel() * kept_dtype(tensor, dtype).itemsize


def whole_bytes(model: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of all weights of a model, placed as `dtype`."""
    return sum(bytes_as(weight, dtype) for weight in model.parameters())


def sharded_bytes(model: nn.Module, ranks: int, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """Bytes of a whole model's weights that each of so many ranks would hold: at rest, and at most gathered beside."""
    split = [module.weight for module in model.modules() if is_sharded(module)]
    sizes = [bytes_as(weight, dtype) for weight in split]
    parts = sum(-(-weight.numel() // ranks) * kept_dtype(weight, dtype).itemsize for weight in split)
    return whole_bytes(model, dtype) - sum(sizes) + parts, sum(sorted(sizes)[-2:])


def sharing_group(
    model: nn.Module, device: torch.device, host: Group, everyone: Group, dtype: torch.dtype | None = None
) -> Group:
    """The ranks to split a model's weights over: those of this rank's `host`, or all where any host has not the room.

    All processes must call it; all are told alike.
    """
    if host.size() == everyone.size():
        return everyone
    free = available_memory(device) / (host.size() if device.type == "cpu" else 1)
    has_room = sum(sharded_bytes(model, host.size(), dtype)) <= (1 - LEFT) * free
    return host if least(torch.tensor(float(has_room)), everyone) else everyone


def kept_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What a weight is kept as where `dtype` is asked for, the file's own without: FP8 and integers stay."""
    if dtype is None or not tensor.is_floating_point() or tensor.dtype in FP8:
        return tensor.dtype
    return dtype


def place_weights(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Put a model on `device` as `dtype`, tensor by tensor: one mapped from its file is never copied whole on the way.

    FP8 weights stay what they are, and their scales with them.
    """
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                placed = weight.detach().to(device, kept_dtype(weight, dtype))
                module._parameters[name] = nn.Parameter(placed, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept = buffer.dtype if name == "scale_weight" else kept_dtype(buffer, dtype)
                module._buffers[name] = buffer.to(device, kept)
    return model


def shard_weights(model: nn.Module, device: torch.device, group: Group, dtype: torch.dtype | None = None) -> nn.Module:
    """Leave each rank of `group` its part of the linear weights of `model`, and put everything on `device` as `dtype`.

    `model` may lie in main memory, mapped from its file: no more than the part is copied. Its layers must be called
    (not their functions), and in the same order on all ranks. A group of one rank has them whole.
    """
    if group.size() == 1:
        return place_weights(model, device, dtype)
    prefetcher = Prefetcher()
    for module in model.modules():
        if is_sharded(module):
            fetch_weight(module, Layer(module.weight, device, group, dtype), prefetcher)
    return place_weights(model, device, dtype)
