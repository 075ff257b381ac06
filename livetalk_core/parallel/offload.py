"""Blocks in main memory: their linear weights are copied to the device while the layers before them compute.

Applied from outside to a built transformer. The copies run on a stream of their own, into a few slots of fixed size in
turn, so that the device never holds more than these, however far the host is ahead of it. Layer by layer rather than
block by block: a step reads two thirds of a block (keys and values of text, image and sound are kept), and a few layers
take less room than two blocks.

On a CPU the same code copies at once; the results are the plain ones, bit for bit.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, repeat

import torch
from torch import Tensor, nn

from ..hardware.machine import available_memory
from .prefetch import Arrival, Prefetcher, fetch_weight

logger = logging.getLogger(__name__)

SLOTS = 4
"""Weights on the device at a time: the one in use, and those on their way."""
LEAST_PINNED, MOST_PINNED = 2**20, 2**30
"""Bytes of the smallest and of the largest piece of pinned memory."""
LEAST_TRIED = 2**26
"""Bytes of a piece below which no smaller one is tried, once the system has refused to pin so much."""


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

    def copy(self, source: Sequence[Tensor]) -> Arrival:
        """Copy pieces of bytes into the next slot, one behind the other; what it held must have been handed to the
        device's work before.
        """
        sizes = [len(piece) for piece in source]
        target = next(self._slots)[: sum(sizes)]
        pieces = list(zip(target.split(sizes), source, strict=True))
        if self._stream is None:
            for place, piece in pieces:
                place.copy_(piece)
            return lambda: target
        stream, computing = self._stream, torch.cuda.current_stream(self.device)
        stream.wait_stream(computing)  # the slot's last weight may still be in use
        with torch.cuda.stream(stream):
            for place, piece in pieces:
                place.copy_(piece, non_blocking=True)
        copied = stream.record_event()

        def arrived() -> Tensor:
            torch.cuda.current_stream(self.device).wait_event(copied)
            return target

        return arrived


class HostWeight:
    """A layer's weight in main memory, its bytes in one piece or more."""

    def __init__(self, weight: Tensor, pieces: Sequence[Tensor], staging: Staging) -> None:
        self.shape, self.dtype, self._pieces, self._staging = weight.shape, weight.dtype, pieces, staging

    def fetch(self) -> Arrival:
        """See `Source.fetch`."""
        arrival = self._staging.copy(self._pieces)
        return lambda: arrival().view(self.dtype).view(self.shape)


def stream_weights(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Keep the linear weights of `blocks`, which are in main memory, there, and copy each to `device` for its layer."""
    every = streamed_layers(blocks)
    staging, prefetcher = Staging(staging_bytes(every), device), Prefetcher(SLOTS - 1)
    sizes = [layer.weight.nbytes for layer in every]
    pinned = device.type == "cuda" and _can_pin(sum(sizes))
    rooms = cut(pinned_memory(sum(sizes)), sizes) if pinned else repeat(())
    for layer, room in zip(every, rooms, strict=False):
        fetch_weight(layer, HostWeight(layer.weight, _bytes_of(layer.weight, room), staging), prefetcher)


def _bytes_of(weight: Tensor, room: Sequence[Tensor]) -> Sequence[Tensor]:
    """A weight's bytes: copied to where there is room for them, else where they lie (mapped from a file, maybe)."""
    flat = weight.detach().contiguous().view(-1).view(torch.uint8)
    if not room:
        return [flat]
    for piece, part in zip(room, flat.split([len(piece) for piece in room]), strict=True):
        piece.copy_(part)
    return room


def _can_pin(size: int) -> bool:
    free = available_memory(torch.device("cpu"))
    if size > free:
        logger.warning(
            "%.1f GiB of weights do not fit into the %.1f GiB of free main memory: they are read from their file for "
            "every step, which is slow; FP8 halves them", size / 2**30, free / 2**30,
        )  # fmt: skip
    return size <= free


def pinned_memory(size: int) -> Iterator[Tensor]:
    """At least so many bytes of pinned memory, at most `LEAST_PINNED` more, piece by piece; less where it is refused.

    PyTorch rounds each piece up to a power of two, and each is one. Under WSL and in containers some gigabytes can be
    pinned, or half of one, however much main memory is free.
    """
    left, piece = -(-size // LEAST_PINNED) * LEAST_PINNED, MOST_PINNED
    while left:
        while piece > left:
            piece //= 2
        pinned = _pinned(piece)
        if pinned is not None:
            yield pinned
            left -= piece
        elif piece > LEAST_TRIED:
            piece //= 2
        else:
            logger.warning(
                "%.1f of %.1f GiB of streamed weights are copied from memory that the system does not let be pinned: "
                "computing waits for these copies", left / 2**30, size / 2**30,
            )  # fmt: skip
            return


def _pinned(size: int) -> Tensor | None:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:  # "CUDA error: out of memory", and not PyTorch's OutOfMemoryError
        logger.debug("%d bytes of pinned memory: %s", size, error)
        return None


def cut(memory: Iterator[Tensor], sizes: Iterable[int]) -> Iterator[list[Tensor]]:
    """Room for each of so many bytes, one behind the other in the pieces of `memory`: in one of them, or in several.

    Behind the end of `memory` there is none: an empty list.
    """
    rest = torch.empty(0, dtype=torch.uint8)
    for size in sizes:
        room: list[Tensor] = []
        while size:
            rest = rest if len(rest) else next(memory, rest)
            if not len(rest):
                room = []
                break
            taken, rest = rest[:size], rest[size:]
            room, size = [*room, taken], size - len(taken)
        yield room
