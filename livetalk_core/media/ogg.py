"""What the pages of an Ogg file (RFC 3533, section 6) tell beside their sound: whether its start or end is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAD, PAGE = 27, 65_307
"""Bytes of a page's head, without its table of segments, and of the largest page."""
LAST = 4
"""The flag of a stream's last page."""
LOOK = 64
"""Pages that are looked at for the first sound."""


class _Page(NamedTuple):
    """A page's head: the stream it is of, its number there, and the position, in samples, at which its sound ends."""

    stream: int
    number: int
    end: int


class Ends(NamedTuple):
    """What the first and the last pages say of the sound.

    `latest_start`: the sample before which it must begin, or its first pages are lost: 0, where such a page is missing.
    `length`: samples, 0 where nothing tells. `cut`: the last page is not marked as the last, or is not all there.
    """

    latest_start: int
    length: int
    cut: bool


def ends(path: Path) -> Ends:
    """Look at the first and the last pages of a file."""
    latest = _latest_start(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    segments = page[HEAD : HEAD + page[HEAD - 1]] if len(page) >= HEAD else b""
    complete = len(segments) > 0 and len(page) >= HEAD + len(segments) + sum(segments)
    if not (complete and page[5] & LAST):
        return Ends(latest, 0, True)
    return Ends(latest, int.from_bytes(page[6:14], "little"), False)


def _latest_start(path: Path) -> int:
    last: dict[int, int] = {}
    for page in _pages(path):
        if page.number != last.get(page.stream, -1) + 1:
            return 0
        if page.end > 0:
            return page.end
        last[page.stream] = page.number
    return 0


def _pages(path: Path) -> Iterator[_Page]:
    """The first pages, up to the first place that is none."""
    with path.open("rb") as file:
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
