"""What PyTorch's caching allocator makes of a program's allocations, and the least memory with which it gets through.

As c10/cuda/CUDACachingAllocator.cpp does: sizes rounded to 512 bytes; requests up to 1 MiB from segments of 2 MiB, up
to 10 MiB from 20 MiB, larger ones from segments of their own size; best fit, the rest of a block split off; free
neighbours joined; segments given back only as a whole, when the device refuses more. With expandable segments there is
one segment for each pool, which grows page by page at its end, and whose free pages are given back one by one.
"""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from .watch import Event

MIB, GIB = 2**20, 2**30
ROUND, SMALL, SEGMENT, MIDDLE, MIDDLE_SEGMENT = 512, MIB, 2 * MIB, 10 * MIB, 20 * MIB


class OutOfMemory(Exception):
    """The device refused, and there was nothing to give back."""


@dataclass(eq=False)
class Block:
    """A part of a segment; its neighbours in the same segment are `before` and `after`."""

    small: bool
    size: int
    before: "Block | None" = None
    after: "Block | None" = None
    used: bool = False


class Allocator:
    """Plays allocations on a device of `capacity` bytes."""

    def __init__(self, capacity: int, expandable: bool = False) -> None:
        self.capacity, self.expandable = capacity, expandable
        self.reserved = self.most_reserved = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._used: dict[int, Block] = {}
        self._allocated: dict[bool, int] = {True: 0, False: 0}

    def play(self, events: Iterable[Event]) -> "Allocator":
        """All events in turn; raises `OutOfMemory`."""
        for event in events:
            if event.kind == "alloc":
                self.allocate(event.key, event.size)
            elif event.kind == "free":
                self.free(event.key)
            else:
                self.give_back()
        return self

    def allocate(self, key: int, size: int) -> None:
        """A block of at least `size` bytes."""
        size = max(ROUND, -(-size // ROUND) * ROUND)
        small = size <= SMALL
        block = self._best(small, size) or self._grow(small, size)
        rest = block.size - size
        if rest >= ROUND if small or self.expandable else rest > SMALL:
            remaining = Block(small, rest, block, block.after)
            if block.after is not None:
                block.after.before = remaining
            block.size, block.after = size, remaining
            self._keep(remaining)
        block.used, self._used[key] = True, block

    def _best(self, small: bool, size: int) -> Block | None:
        free = self._free[small]
        place = bisect.bisect_left(free, (size, 0))
        return free.pop(place)[2] if place < len(free) else None

    def _grow(self, small: bool, size: int) -> Block:
        need = SEGMENT if small else MIDDLE_SEGMENT if size < MIDDLE else -(-size // SEGMENT) * SEGMENT
        if self.reserved + need > self.capacity:
            self.give_back()
        if self.reserved + need > self.capacity:
            raise OutOfMemory
        self.reserved += need
        self.most_reserved = max(self.most_reserved, self.reserved)
        return Block(small, need)

    def free(self, key: int) -> None:
        """Join the block with its free neighbours."""
        block = self._used.pop(key)
        block.used = False
        for other in (block.before, block.after):
            if other is not None and not other.used:
                self._drop(other)
                block.size += other.size
                if other is block.before:
                    block.before = other.before
                    if block.before is not None:
                        block.before.after = block
                else:
                    block.after = other.after
                    if block.after is not None:
                        block.after.before = block
        self._keep(block)

    def give_back(self) -> None:
        """Whole segments that are free; of expandable ones, every free page."""
        for free in self._free.values():
            for _, _, block in list(free):
                unsplit = block.before is None and block.after is None
                released = block.size // SEGMENT * SEGMENT if self.expandable else block.size if unsplit else 0
                if released:
                    self._unmap(block, released)

    def _unmap(self, block: Block, released: int) -> None:
        self._drop(block)
        self.reserved -= released
        block.size -= released
        if block.size:
            self._keep(block)
            return
        for other, side in ((block.before, "after"), (block.after, "before")):
            if other is not None:
                setattr(other, side, None)

    def _keep(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, id(block), block))

    def _drop(self, block: Block) -> None:
        free = self._free[block.small]
        del free[bisect.bisect_left(free, (block.size, id(block)))]


def least(events: list[Event], expandable: bool, exact: int, step: int = 32 * MIB) -> int:
    """The least capacity, in steps, with which the events get through; `exact` is their peak."""
    low, high = exact // step, 2 * exact // step + 1
    while low < high:
        middle = (low + high) // 2
        try:
            Allocator(middle * step, expandable).play(events)
            high = middle
        except OutOfMemory:
            low = middle + 1
    return low * step
