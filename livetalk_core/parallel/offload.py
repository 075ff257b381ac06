"""Blocks in main memory: their linear weights are copied to the device while the layers before them compute.

Applied from outside to a built transformer. The copies run on a stream of their own, into a few slots of fixed size in
turn, so that the device never holds more than these, however far the host is ahead of it. Layer by layer rather than
block by block: a step reads two thirds of a block (keys and values of text, image and sound are kept), and a few layers
take less room than two blocks.

On a CPU the same code copies at once; the results are the plain ones, bit for bit.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import cycle

import torch
from torch import Tensor, nn

from ..hardware.machine import available_memory
from .prefetch import Arrival, Prefetcher, fetch_weight

logger = logging.getLogger(__name__)

SLOTS = 4
"""Weights on the device at a time: the one in use, and those on their way."""


def streamed_layers(blocks: Iterable[nn.Module]) -> list[nn.Linear]:
    """The layers of these blocks whose weights are streamed; norms, biases and modulations stay on the device."""
    return [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]


def staging_bytes(layers: Sequence[nn.Linear]) -> int:
    """Bytes on the device through which the weights of these layers pass."""
    return SLOTS * max((layer.weight.nbytes for layer in layers), default=0)


class Staging:
    """The slots, and the stream that fills them."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.device = device
        slots = [torch.empty(size // SLOTS, dtype=torch.uint8, device=device) for _ in range(SLOTS)]
        self._slots, self._stream = cycle(slots), None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            for slot in slots:
                slot.record_stream(self._stream)  # freed, it is used again only after the last copy into it

    def copy(self, source: Tensor) -> Arrival:
        """Copy bytes into the next slot; what it held must have been handed to the device's work before."""
        target = next(self._slots)[: len(source)]
        if self._stream is None:
            target.copy_(source)
            return lambda: target
        stream, computing = self._stream, torch.cuda.current_stream(self.device)
        stream.wait_stream(computing)  # the slot's last weight may still be in use
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        copied = stream.record_event()

        def arrived() -> Tensor:
            torch.cuda.current_stream(self.device).wait_event(copied)
            return target

        return arrived


class HostWeight:
    """A layer's weight in main memory."""

    def __init__(self, weight: Tensor, flat: Tensor, staging: Staging) -> None:
        self.shape, self.dtype, self._flat, self._staging = weight.shape, weight.dtype, flat, staging

    def fetch(self) -> Arrival:
        """See `Source.fetch`."""
        arrival = self._staging.copy(self._flat)
        return lambda: arrival().view(self.dtype).view(self.shape)


def stream_weights(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Keep the linear weights of `blocks`, which are in main memory, there, and copy each to `device` for its layer."""
    every = streamed_layers(blocks)
    staging, prefetcher = Staging(staging_bytes(every), device), Prefetcher(SLOTS - 1)
    pinned = device.type == "cuda" and _can_pin(sum(layer.weight.nbytes for layer in every))
    for block in blocks:
        layers = streamed_layers([block])
        for layer, flat in zip(layers, _flat([layer.weight for layer in layers], pinned), strict=True):
            fetch_weight(layer, HostWeight(layer.weight, flat, staging), prefetcher)


def _can_pin(size: int) -> bool:
    free = available_memory(torch.device("cpu"))
    if size > free:
        logger.warning(
            "%.1f GiB of weights do not fit into the %.1f GiB of free main memory: they are read from their file for "
            "every step, which is slow; FP8 halves them", size / 2**30, free / 2**30,
        )  # fmt: skip
    return size <= free


def _flat(weights: Sequence[Tensor], pinned: bool) -> list[Tensor]:
    """The bytes of weights: where they lie (mapped from a file, maybe), or copied to pinned memory, in one piece."""
    flat = [weight.detach().contiguous().view(-1).view(torch.uint8) for weight in weights]
    if not pinned:
        return flat
    sizes = [len(part) for part in flat]
    together = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True).split(sizes)
    for target, part in zip(together, flat, strict=True):
        target.copy_(part)
    return list(together)
