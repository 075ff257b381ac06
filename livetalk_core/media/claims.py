"""Whether a file's end is missing, in a format that tells no length of its sound.

It is where the file is shorter than its header says, or ends in zeros: room that a download took and never filled.
"""

import io
import struct
from collections.abc import Callable
from pathlib import Path

HEAD_BYTES = 4096
SLACK = 1024
"""Bytes that a file may lack: padding, or part of an index."""
MADE_UP = 2**31 - 2**16
"""Sizes from here on stand for "unknown" where 32 bits hold them."""
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The object of ASF that has the file's size, behind its name, its own size and the file's name of 16 bytes each."""


UNFILLED = 4096
"""Zeros at the end from which on they are no part of compressed sound."""
BLOCK = 2**16


def _chunk(order: str) -> Callable[[bytes], int]:
    """Of RIFF and FORM: the size behind the name."""
    return lambda head: _small(struct.unpack_from(f"{order}I", head, 4)[0], 8)


def _au(head: bytes) -> int:
    begin, size = struct.unpack_from(">II", head, 4)
    return _small(size, begin)


def _asf(head: bytes) -> int:
    at = head.find(ASF_PROPERTIES)
    return struct.unpack_from("<Q", head, at + 40)[0] if at >= 0 else 0


def _wide(name: bytes, place: int, more: int = 0) -> Callable[[bytes], int]:
    """A size of 64 bits at `place` of a file that begins with `name`."""
    return lambda head: struct.unpack_from("<Q", head, place)[0] + more if head.startswith(name) else 0


def _small(size: int, more: int) -> int:
    return size + more if size < MADE_UP else 0


SIZES: dict[str, Callable[[bytes], int]] = {
    "avi": _chunk("<"), "aiff": _chunk(">"), "au": _au, "asf": _asf, "w64": _wide(b"riff", 16),
    "dsf": _wide(b"DSD ", 12), "wav": _wide(b"RF64", 20, more=8),
}  # fmt: skip
"""By FFmpeg's names of the formats: the file's size by its header, 0 where that says none."""


def lacks_end(path: Path, format_name: str) -> bool:
    """Whether the file has fewer bytes than its header says."""
    if format_name not in SIZES:
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        return SIZES[format_name](head) > path.stat().st_size + SLACK
    except struct.error:  # shorter than a header
        return False


def unfilled(path: Path) -> int:
    """How many zeros are at the end of a file; 0 for a few."""
    with path.open("rb") as file:
        place = file.seek(0, io.SEEK_END)
        size = place
        while place > 0:
            start = max(0, place - BLOCK)
            file.seek(start)
            filled = len(file.read(place - start).rstrip(b"\0"))
            if filled:
                place = start + filled
                break
            place = start
    return size - place if size - place >= UNFILLED else 0
