"""What the pages of an Ogg file (RFC 3533, section 6) tell beside their sound.

Whether its start or end is missing, and where streams are joined that no decoder reads in one go.
"""

import hashlib
import mmap
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

HEAD, PAGE = 27, 65_307
"""Bytes of a page's head, without its table of segments, and of the largest page."""
FIRST_BYTES, FIRST_PAGE = b"OggS", re.compile(rb"OggS\x00[\x02\x03\x06\x07]")
"""How a file begins, and the first page of each stream."""
FIRST_HEADS = 1024
"""Bytes in which the first pages' heads of streams are looked for."""
LAST = 4
"""The flag of a stream's last page."""
LOOK = 64
"""Pages that are looked at for the first sound."""


class _Page(NamedTuple):
    """A page's head: the stream it is of, its number there, and the position, in samples, at which its sound ends."""

    stream: int
    number: int
    end: int


class Link(NamedTuple):
    """One of several recordings in a file, joined one behind the other: bytes [start, stop)."""

    start: int
    stop: int


class Ends(NamedTuple):
    """What the first and the last pages say of the sound.

    `latest_start`: the sample before which it must begin, or its first pages are lost: 0, where such a page is missing.
    `length`: samples, 0 where nothing tells. `cut`: the last page is not marked as the last, or is not all there.
    `skipped`: samples that are counted and left out.
    """

    latest_start: int
    length: int
    cut: bool
    skipped: int


def links(path: Path) -> list[Link]:
    """Recordings that are joined and begin otherwise than the first: decoders drop what has other channels or rates.

    None for a file of one, of others that are all alike, or of another format.
    """
    size, starts, heads, behind = path.stat().st_size, list[int](), list[bytes](), -1
    with path.open("rb") as file:
        if file.read(len(FIRST_BYTES)) != FIRST_BYTES:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for match in FIRST_PAGE.finditer(view):
                at = match.start()
                if at < behind:  # within a page: no page
                    continue
                body = at + HEAD + view[at + HEAD - 1] if at + HEAD <= size else size
                if at != behind:  # else one more voice of the same recording
                    starts.append(at)
                    heads.append(b"")
                behind = body + sum(view[at + HEAD : body])
                heads[-1] = hashlib.sha256(heads[-1] + view[body:behind]).digest()
    return [Link(*edges) for edges in pairwise([*starts, size])] if len(set(heads)) > 1 else []


def ends(path: Path, link: Link | None = None) -> Ends:
    """Look at the first and the last pages of a file, or of one of its recordings."""
    start, stop = link or (0, path.stat().st_size)
    latest = _latest_start(path, start)
    with path.open("rb") as file:
        file.seek(start)
        skipped = _pre_skip(file.read(FIRST_HEADS))
        file.seek(max(start, stop - PAGE))
        tail = file.read(stop - file.tell())
    page = tail[tail.rfind(b"OggS") :]
    segments = page[HEAD : HEAD + page[HEAD - 1]] if len(page) >= HEAD else b""
    complete = len(segments) > 0 and len(page) >= HEAD + len(segments) + sum(segments)
    if not (complete and page[5] & LAST):
        return Ends(latest, 0, True, skipped)
    return Ends(latest, max(0, int.from_bytes(page[6:14], "little") - skipped), False, skipped)


def _pre_skip(head: bytes) -> int:
    """Samples that Opus counts and leaves out (RFC 7845, section 5.1)."""
    at = head.find(b"OpusHead")
    return 0 if at < 0 else int.from_bytes(head[at + 10 : at + 12], "little")


def _latest_start(path: Path, start: int) -> int:
    last: dict[int, int] = {}
    for page in _pages(path, start):
        if page.number != last.get(page.stream, -1) + 1:
            return 0
        if page.end > 0:
            return page.end
        last[page.stream] = page.number
    return 0


def _pages(path: Path, start: int) -> Iterator[_Page]:
    """The first pages, up to the first place that is none."""
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(LOOK):
            head = file.read(HEAD)
            if len(head) < HEAD or head[:4] != b"OggS":
                return
            body = sum(file.read(head[HEAD - 1]))
            numbers = (
                int.from_bytes(head[at : at + size], "little", signed=size == 8)
                for at, size in ((14, 4), (18, 4), (6, 8))
            )
            yield _Page(*numbers)
            file.seek(body, 1)
