"""WAV files whose headers tell less than the truth: joined ones, and those of servers that stream.

A server that writes a WAV while it speaks does not know the length yet, and puts some large number in its place; and
a WAV behind a WAV is past the first one's end, where decoders stop. So the file's own bytes decide what is in it.
"""

import io
import mmap
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import InputError

RIFF_HEAD, CHUNK_HEAD = 12, 8
NEXT_HEADER = re.compile(rb"RIFF.{4}WAVEfmt ", re.DOTALL)
SENTINELS = (2**30, 2**31, 2**32)
SENTINEL_SLACK = 0x1_0000
ROUND = 1_000_000
"""Sizes of whole millions of bytes are made up, as those near `SENTINELS`."""
LEAST_REST_SECONDS = 0.05
UNKNOWN_SIZE = b"\xff\xff\xff\xff"
FORMAT_BYTES, VALID_AT, EXTENSIBLE = 20, 18, b"\xfe\xff"
"""Bytes of a format chunk that are looked at, where its valid bits are, and the tag of a chunk that has them."""
WIDE_HEAD = 65_536
WIDE_FORMAT = re.compile(
    rb"fmt (?:.{4}|\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a.{8})(\xfe\xff.{18})", re.DOTALL
)
"""A format chunk behind the name and size that it has in RF64, or in W64."""
CUT_OFF_FACTOR = 10
"""A header that claims more than so many times what is there is not believed."""
MOST_BEHIND = 100
"""Chunks behind the sound that are gone through to where the next WAV begins."""
MOST_EMPTY = 65_536
"""Chunks without name and content, one behind the other, after which no sound is looked for any more."""


class Overlay(NamedTuple):
    """Bytes that take the place of a file's from `at` on."""

    at: int
    content: bytes


class Part(NamedTuple):
    """One recording within a file: bytes [start, stop).

    `seconds` it should last by its header, where that can be believed and is more than there is. `overlays`: what is
    read in place of bytes of the file.
    """

    start: int
    stop: int
    seconds: float | None = None
    overlays: tuple[Overlay, ...] = ()


class _Data(NamedTuple):
    """Where a WAV's samples are: first byte, claimed bytes, bytes a second (0 where no header said).

    `overlays`: of its header.
    """

    start: int
    claimed: int
    rate: int
    overlays: tuple[Overlay, ...]


def wav_parts(path: Path, start: int = 0) -> list[Part]:
    """The WAVs that a file holds one behind the other from `start` on; none for a file of another kind."""
    parts: list[Part] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        while start < size and (data := _data(file, start, size)) is not None:
            parts.append(_part(file, start, size, data))
            start = parts[-1].stop
        return parts or _wide_parts(file, size)


def _data(file: BinaryIO, start: int, size: int) -> _Data | None:
    """The samples of the WAV that begins at `start`; None where none begins there."""
    file.seek(start)
    riff = file.read(RIFF_HEAD)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return None
    place, form_at, form, empty = start + RIFF_HEAD, 0, b"", 0
    while place + CHUNK_HEAD <= size:
        file.seek(place)
        name, length = _chunk(file.read(CHUNK_HEAD))
        empty = 0 if length or any(name) else empty + 1
        if empty > MOST_EMPTY:
            if start:
                return None
            raise InputError(
                f"sound {file.name} is a WAV that holds zeros where its sound should begin; a whole one is needed: "
                "get a new copy from where it was recorded"
            )
        if name == b"data":
            rate = int.from_bytes(form[8:12], "little")
            return _Data(place + CHUNK_HEAD, length, rate, _valid_bits(form, form_at))
        if name == b"fmt ":
            form_at, form = place + CHUNK_HEAD, file.read(FORMAT_BYTES)
        place += CHUNK_HEAD + length + length % 2
    return None


def _part(file: BinaryIO, start: int, size: int, data: _Data) -> Part:
    end = data.start + data.claimed
    if _made_up(data.claimed) or end > size:
        stop = _next_header(file, data.start, size)
        held = stop - data.start
        believed = not _made_up(data.claimed) and data.rate and held < data.claimed <= CUT_OFF_FACTOR * held
        return Part(start, stop, data.claimed / data.rate if believed else None, data.overlays)
    stop, sound_goes_on = _behind(file, end, size, data.rate)
    size_unknown = (Overlay(data.start - 4, UNKNOWN_SIZE),) if sound_goes_on else ()
    return Part(start, stop, overlays=(*data.overlays, *size_unknown))


def _valid_bits(form: bytes, at: int) -> tuple[Overlay, ...]:
    """All bits of a container as valid: FFmpeg takes samples for as many bytes as those that are need.

    `form` is a format chunk's content, which lies at `at`. The other bits are the lower ones, and 0.
    """
    if len(form) < FORMAT_BYTES or form[:2] != EXTENSIBLE:
        return ()
    bits, valid = (int.from_bytes(form[place : place + 2], "little") for place in (14, VALID_AT))
    return (Overlay(at + VALID_AT, form[14:16]),) if 0 < valid <= bits - 8 else ()


def _wide_parts(file: BinaryIO, size: int) -> list[Part]:
    """A WAV of 64-bit sizes (RF64, BW64, W64) with its overlays; none where there are none."""
    file.seek(0)
    head = file.read(WIDE_HEAD)
    match = WIDE_FORMAT.search(head) if head[:4] in (b"RF64", b"BW64", b"riff") else None
    overlays = _valid_bits(match[1], match.start(1)) if match else ()
    return [Part(0, size, overlays=overlays)] if overlays else []


def _made_up(claimed: int) -> bool:
    """Whether the size of the data stands for "unknown"."""
    near = any(abs(claimed - sentinel) < SENTINEL_SLACK for sentinel in SENTINELS)
    return claimed % ROUND == 0 or claimed >= SENTINELS[1] - SENTINEL_SLACK or near


def _behind(file: BinaryIO, place: int, size: int, rate: int) -> tuple[int, bool]:
    """Where the WAV ends whose data end at `place`, and whether what follows them is sound without a header."""
    begin = place
    for _ in range(MOST_BEHIND):
        if place >= size:
            break
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
        for overlay in self._part.overlays:
            data = _overlaid(data, overlay.at - self._part.start - place, overlay.content)
        return data

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


def _overlaid(data: bytes, at: int, content: bytes) -> bytes:
    """The data with `content` written at `at`, as far as that is within."""
    first, last = max(0, at), min(len(data), at + len(content))
    if first >= last:
        return data
    return data[:first] + content[first - at : last - at] + data[last:]
