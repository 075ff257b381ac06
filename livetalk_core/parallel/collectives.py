"""What ranks send each other, as functions of tensors: the only calls that move data between processes.

All are made of `all_to_all_single`, `all_gather_into_tensor` and `all_reduce`: NCCL and gloo have them, with uneven
shares too, and `torch.compile` keeps them in its graph (they take no handle to wait for while it traces).
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

Group = dist.ProcessGroup

# The name of the same call before and after torch 2.13.
_all_gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor


def exchange(x: Tensor, group: Group) -> Tensor:
    """Entry i of the first dimension goes to rank i of `group`: [ranks, ...] -> [ranks, ...], entry i from rank i."""
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, x.contiguous(), group=group)
    return received


def exchange_soon(x: Tensor, group: Group) -> Callable[[], Tensor]:
    """Begin an `exchange`; the function that is returned waits for its result."""
    if torch.compiler.is_compiling():
        received = exchange(x, group)
        return lambda: received
    received, sent = torch.empty_like(x, memory_format=torch.contiguous_format), x.contiguous()
    work = dist.all_to_all_single(received, sent, group=group, async_op=True)

    def wait() -> Tensor:
        assert work is not None
        work.wait()
        return received

    return wait


def pass_on(x: Tensor, group: Group) -> Callable[[], Tensor]:
    """Send `x` to the next rank of the ring; the function that is returned waits for the one before's, same shape."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    received, sent = torch.empty_like(x, memory_format=torch.contiguous_format), x.contiguous()
    to, of = ([x.shape[0] * (peer == (rank + step) % ranks) for peer in range(ranks)] for step in (1, -1))
    if torch.compiler.is_compiling():
        dist.all_to_all_single(received, sent, of, to, group=group)
        return lambda: received
    work = dist.all_to_all_single(received, sent, of, to, group=group, async_op=True)

    def wait() -> Tensor:
        assert work is not None
        work.wait()
        return received

    return wait


def send_edges(first: Tensor, last: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """`first` goes to the rank before, `last` to the one after; returns what those sent, zeros beyond the ends."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    before, after = rank > 0, rank + 1 < ranks
    counts = [int(abs(peer - rank) == 1) for peer in range(ranks)]
    sent = torch.stack([first] * before + [last] * after) if before or after else first.new_empty(0, *first.shape)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, counts, counts, group=group)
    none = torch.zeros_like(first)
    return received[0] if before else none, received[-1] if after else none


def gather(x: Tensor, group: Group) -> Tensor:
    """Every rank's `x`, stacked: [...] -> [ranks, ...]."""
    flat = x.new_empty(dist.get_world_size(group) * x.numel())
    _all_gather(flat, x.flatten(), group=group)
    return flat.view(-1, *x.shape)


def gather_soon(x: Tensor, group: Group) -> Callable[[], Tensor]:
    """Ask for every rank's `x` [n]; the function that is returned waits for [ranks * n]."""
    joined = x.new_empty(dist.get_world_size(group) * x.numel())
    work = _all_gather(joined, x, group=group, async_op=True)

    def wait() -> Tensor:
        assert work is not None
        work.wait()
        return joined

    return wait


def gather_uneven(x: Tensor, dim: int, sizes: Sequence[int], group: Group) -> Tensor:
    """Every rank's `x`, joined along `dim`, where rank i holds `sizes[i]`."""
    missing = max(sizes) - x.shape[dim]
    padded = F.pad(x.transpose(dim, -1), (0, missing)).transpose(dim, -1) if missing else x
    parts = gather(padded, group).unbind(0)
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)], dim)


def total(x: Tensor, group: Group) -> Tensor:
    """Sum over the ranks."""
    summed = x.contiguous().clone()
    dist.all_reduce(summed, group=group)
    return summed


def least(x: Tensor, group: Group) -> Tensor:
    """Smallest value over the ranks, element by element."""
    smallest = x.contiguous().clone()
    dist.all_reduce(smallest, dist.ReduceOp.MIN, group=group)
    return smallest


def finish(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given: there, not in the calls above, NCCL waits for other ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def greatest(x: Tensor) -> Tensor:
    """Greatest value over all processes, element by element."""
    largest = x.contiguous().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest
