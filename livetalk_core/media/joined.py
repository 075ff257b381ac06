"""Recordings joined one behind the other, in formats whose decoders stop where the first ends.

Each of these formats says how long a recording is: in its head, or part by part. What lies behind that and begins as
the file does is another recording. (WAV has `wav`, Ogg has `ogg`; joined frames without a head need nothing.)
"""

import mmap
import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .boxes import FIRST, boxes
from .claims import HEAD_BYTES, SIZES
from .protection import ASF_HEADER
from .wav import Part

FLV_HEAD, FLV_TAG, FLV_AUDIO_VIDEO_SCRIPT = 13, 15, (8, 9, 18)
"""Bytes of the head and of what surrounds each tag, with the size that is repeated behind it; the kinds of tags."""
MATROSKA_BEGIN = re.compile(rb"\x1a\x45\xdf\xa3.{1,40}?\x42\x82.(?:webm|matroska)", re.DOTALL)
"""EBML's head (RFC 8794), with the name of the format in it."""
TTA_BEGIN = re.compile(rb"TTA1[\x01\x02]\x00[\x01-\x08]\x00[\x08\x10\x18\x20]\x00", re.DOTALL)
"""Its name, then kind, channels and bits of the samples."""
APE_TAG = b"APETAGEX"
WAVPACK_INITIAL = 0x800
"""The flag of a block that is the first of those that belong together."""
LONGEST_BEGIN = 64


class Format(NamedTuple):
    """How a recording of a format begins, and `end`, which says behind which byte one ends that begins at a byte."""

    begin: re.Pattern[bytes]
    end: Callable[[BinaryIO, int], int]


def recordings(path: Path, start: int = 0) -> list[Part]:
    """The recordings that a file holds from `start` on; none for one that is all of it, or of another format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = next((kind for kind in FORMATS if _begins(file, start, kind)), None)
        if kind is None:
            return []
        starts = [start]
        while starts[-1] < (end := kind.end(file, starts[-1])) < size and _begins(file, end, kind):
            starts.append(end)
    return [] if starts == [0] else [Part(*edges) for edges in pairwise([*starts, size])]


def _begins(file: BinaryIO, place: int, kind: Format) -> bool:
    file.seek(place)
    return kind.begin.match(file.read(LONGEST_BEGIN)) is not None


def _by_head(name: str) -> Callable[[BinaryIO, int], int]:
    """By the size in the head, as in `claims`."""

    def end(file: BinaryIO, start: int) -> int:
        file.seek(start)
        try:
            return start + SIZES[name](file.read(HEAD_BYTES))
        except struct.error:  # shorter than a head
            return start

    return end


def _boxes(file: BinaryIO, start: int) -> int:
    """By the boxes of MP4, up to one that is a file's first."""
    place = start
    for box in boxes(file, start):
        if box.stop is None or (box.name == FIRST and box.start > start):
            return box.start
        place = box.stop
    return place


def _caf(file: BinaryIO, start: int) -> int:
    """By the chunks of Apple's Core Audio Format."""
    place = start + 8
    while True:
        file.seek(place)
        head = file.read(12)
        if len(head) < 12 or head[:4] == b"caff":
            return place
        size = int.from_bytes(head[4:], "big", signed=True)
        if size < 0:  # up to the end of the file
            return start
        place += 12 + size


def _flv(file: BinaryIO, start: int) -> int:
    """By the tags of Adobe's FLV."""
    place = start + FLV_HEAD
    while True:
        file.seek(place)
        head = file.read(4)
        if len(head) < 4 or head[0] not in FLV_AUDIO_VIDEO_SCRIPT:
            return place
        place += FLV_TAG + int.from_bytes(head[1:], "big")


def _wavpack(file: BinaryIO, start: int) -> int:
    """By the blocks of WavPack and the tags behind them, up to a block that is a recording's first."""
    place = start
    while True:
        file.seek(place)
        head = file.read(32)
        if head[:8] == APE_TAG:
            place += 32 + int.from_bytes(head[12:16], "little")
            continue
        if len(head) < 32 or head[:4] != b"wvpk":
            return place
        size, index, flags = (int.from_bytes(head[at : at + 4], "little") for at in (4, 16, 24))
        if place > start and index == 0 and flags & WAVPACK_INITIAL:
            return place
        place += 8 + size


def _true_audio(file: BinaryIO, start: int) -> int:
    """By where the next head of TTA begins."""
    return _next(file, start, TTA_BEGIN)


def _matroska(file: BinaryIO, start: int) -> int:
    """By where the next one begins: what is recorded live has no size."""
    return _next(file, start, MATROSKA_BEGIN)


def _next(file: BinaryIO, start: int, begin: re.Pattern[bytes]) -> int:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        match = begin.search(view, start + 1)
        return match.start() if match else len(view)


def _format(begin: bytes, end: Callable[[BinaryIO, int], int]) -> Format:
    return Format(re.compile(begin, re.DOTALL), end)


FORMATS = (
    _format(rb"\x00\x00..ftyp", _boxes),
    _format(rb"caff\x00\x01", _caf),
    _format(rb"FLV\x01", _flv),
    _format(rb"FORM.{4}AIF[FC]", _by_head("aiff")),
    _format(rb"\.snd", _by_head("au")),
    _format(rb"riff.{12}", _by_head("w64")),
    _format(rb"DSD .{24}fmt ", _by_head("dsf")),
    _format(rb"RIFF.{4}AVI ", _by_head("avi")),
    _format(re.escape(ASF_HEADER), _by_head("asf")),
    _format(b"wvpk", _wavpack),
    Format(TTA_BEGIN, _true_audio),
    Format(MATROSKA_BEGIN, _matroska),
)
