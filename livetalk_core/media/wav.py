"""WAV files whose headers tell less than the truth: joined ones, and those of servers that stream.

A server that writes a WAV while it speaks does not know the length yet, and puts some large number in its place; and
a WAV behind a WAV is past the first one's end, where decoders stop. So the file's own bytes decide what is in it.
"""

import io
import mmap
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

RIFF_HEAD, CHUNK_HEAD = 12, 8
NEXT_HEADER = re.compile(rb"RIFF.{4}WAVEfmt ", re.DOTALL)
SENTINELS = (2**30, 2**31, 2**32)
SENTINEL_SLACK = 0x1_0000
ROUND = 1_000_000
"""Sizes of whole millions of bytes are made up, as those near `SENTINELS`."""
LEAST_REST_SECONDS = 0.05
UNKNOWN_SIZE = b"\xff\xff\xff\xff"
CUT_OFF_FACTOR = 10
"""A header that claims more than so many times what is there is not believed."""


class Part(NamedTuple):
    """One WAV within a file: bytes [start, stop).

    `seconds` it should last by its header, where that can be believed and is more than there is. `size_at`: where
    the size of its data is written, if sound goes on behind it.
    """

    start: int
    stop: int
    seconds: float | None = None
    size_at: int | None = None


class _Data(NamedTuple):
    """Where a WAV's samples are: first byte, claimed bytes, bytes a second (0 where no header said)."""

    start: int
    claimed: int
    rate: int


def wav_parts(path: Path) -> list[Part]:
    """The WAVs that a file holds one behind the other; none for a file of another kind."""
    parts: list[Part] = []
    start, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while start < size and (data := _data(file, start, size)) is not None:
            parts.append(_part(file, start, size, data))
            start = parts[-1].stop
    return parts


def _data(file: BinaryIO, start: int, size: int) -> _Data | None:
    """The samples of the WAV that begins at `start`; None where none begins there."""
    file.seek(start)
    riff = file.read(RIFF_HEAD)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return None
    place, rate = start + RIFF_HEAD, 0
    while place + CHUNK_HEAD <= size:
        file.seek(place)
        name, length = _chunk(file.read(CHUNK_HEAD))
        if name == b"data":
            return _Data(place + CHUNK_HEAD, length, rate)
        if name == b"fmt ":
            rate = int.from_bytes(file.read(12)[8:12], "little")
        place += CHUNK_HEAD + length + length % 2
    return None


def _part(file: BinaryIO, start: int, size: int, data: _Data) -> Part:
    end = data.start + data.claimed
    if _made_up(data.claimed) or end > size:
        stop = _next_header(file, data.start, size)
        held = stop - data.start
        believed = not _made_up(data.claimed) and data.rate and held < data.claimed <= CUT_OFF_FACTOR * held
        return Part(start, stop, data.claimed / data.rate if believed else None)
    stop, sound_goes_on = _behind(file, end, size, data.rate)
    return Part(start, stop, size_at=data.start - 4 if sound_goes_on else None)


def _made_up(claimed: int) -> bool:
    """Whether the size of the data stands for "unknown"."""
    near = any(abs(claimed - sentinel) < SENTINEL_SLACK for sentinel in SENTINELS)
    return claimed % ROUND == 0 or claimed >= SENTINELS[1] - SENTINEL_SLACK or near


def _behind(file: BinaryIO, place: int, size: int, rate: int) -> tuple[int, bool]:
    """Where the WAV ends whose data end at `place`, and whether what follows them is sound without a header."""
    begin = place
    while place < size:
        file.seek(place)
        head = file.read(CHUNK_HEAD + 1)
        if head[:4] == b"RIFF" or head[1:5] == b"RIFF":
            return place + (head[:4] != b"RIFF"), False
        name, length = _chunk(head[:CHUNK_HEAD])
        if not (name.isascii() and name.decode().isprintable()):
            break
        place += CHUNK_HEAD + length + length % 2
    if size - place <= LEAST_REST_SECONDS * rate or not rate:
        return size, False
    return _next_header(file, begin, size), place == begin


def _chunk(head: bytes) -> tuple[bytes, int]:
    return head[:4], int.from_bytes(head[4:8], "little")


def _next_header(file: BinaryIO, place: int, size: int) -> int:
    """Where the next WAV begins, or the end of the file."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        match = NEXT_HEADER.search(view, place)
        return match.start() if match else size


class PartFile:
    """A part of a file as a file of its own, for FFmpeg to read."""

    def __init__(self, path: Path, part: Part) -> None:
        self._file = path.open("rb")
        self._part, self._place = part, 0

    def read(self, size: int) -> bytes:
        """The next bytes, none at the end."""
        self._file.seek(self._part.start + self._place)
        data = self._file.read(max(0, min(size, self._part.stop - self._part.start - self._place)))
        place, self._place = self._place, self._place + len(data)
        if self._part.size_at is None:
            return data
        return _overlaid(data, self._part.size_at - self._part.start - place)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do."""
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._part.stop - self._part.start}
        self._place = bases[whence] + offset
        return self._place

    def tell(self) -> int:
        """Where the next bytes come from."""
        return self._place

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _overlaid(data: bytes, at: int) -> bytes:
    """The data with `UNKNOWN_SIZE` written at `at`, as far as that is within."""
    first, last = max(0, at), min(len(data), at + len(UNKNOWN_SIZE))
    if first >= last:
        return data
    return data[:first] + UNKNOWN_SIZE[first - at : last - at] + data[last:]
