"""The boxes of MP4, M4A and MOV files (ISO/IEC 14496-12), as far as they lie side by side."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

HEAD, WIDE_HEAD = 8, 16
"""Bytes of a box's head: size and name, and behind these a size of 64 bits where the first is 1."""
FIRST = b"ftyp"
"""The box that a file begins with."""


class Box(NamedTuple):
    """A box: its name, its first byte, and the byte behind it, None where it goes on to the end of the file."""

    name: bytes
    start: int
    stop: int | None


def boxes(file: BinaryIO, start: int = 0) -> Iterator[Box]:
    """The boxes from `start` on, up to the first place that holds none."""
    place: int | None = start
    while place is not None:
        file.seek(place)
        head = file.read(WIDE_HEAD)
        size, name = int.from_bytes(head[:4], "big"), head[4:HEAD]
        if size == 1:
            size = int.from_bytes(head[HEAD:], "big")
        if len(head) < HEAD or 0 < size < HEAD:
            return
        box = Box(name, place, place + size if size else None)
        yield box
        place = box.stop
