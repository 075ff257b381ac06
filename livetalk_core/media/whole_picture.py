"""Whether a compressed picture's file holds all of its pixels: decoders make some up for what is missing.

All are there if the picture stays the same whatever bytes lie where its own may end.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..errors import InputError
from .boxes import boxes

JPEG_START, JPEG_END, OTHER = b"\xff\xd8\xff", b"\xff\xd9", b"\x55"
MOST_BYTES, MOST_PIXELS = 2**27, 2**25
"""Of a picture that is decoded several times, and compared."""
ZEROS = 64
"""At the end of a file; no compressed pixels end in so many."""
RIFF_HEAD = 8


def with_end(path: Path) -> bytes | None:
    """A JPEG with the end mark that it lacks; None for any other file, and where pixels are lacking, too."""
    if path.stat().st_size > MOST_BYTES or not path.read_bytes().startswith(JPEG_START):
        return None
    ended = path.read_bytes().removesuffix(JPEG_END[:1]) + JPEG_END
    other = ended.removesuffix(JPEG_END) + ZEROS * OTHER + JPEG_END
    return ended if _same_pixels(ended, other, "JPEG") else None


def check_filled(path: Path, format_name: str | None) -> None:
    """Raise `InputError` for a picture that has zeros in place of its last pixels: room that a copy never filled."""
    if format_name not in STOPS or path.stat().st_size > MOST_BYTES:
        return
    data = path.read_bytes()
    start, stop = len(data.rstrip(b"\0")), STOPS[format_name](data)
    other = data[:start] + (stop - start) * OTHER + data[stop:]
    if stop - start < ZEROS or _same_pixels(data, other, format_name) is not False:
        return
    raise InputError(
        f"image {path.name} holds zeros in place of its last {stop - start:,} bytes, as a copy or download that was "
        "stopped; a whole one is needed: get it again"
    )


def _same_pixels(content: bytes, other: bytes, format_name: str) -> bool | None:
    """Whether two files show the same, which they do not where one shows nothing; None for too large a picture."""
    try:
        with Image.open(BytesIO(content), formats=[format_name]) as first:
            if first.width * first.height > MOST_PIXELS:
                return None
            with Image.open(BytesIO(other), formats=[format_name]) as second:
                return first.size == second.size and first.tobytes() == second.tobytes()
    except (OSError, SyntaxError, ValueError):
        return False


def _last_data(content: bytes) -> int:
    """Where the last pixels of AVIF and HEIC may end; what lies behind is padding."""
    data = [len(content) if box.stop is None else box.stop for box in boxes(BytesIO(content)) if box.name == b"mdat"]
    return min(len(content), max(data, default=0))


def _riff(content: bytes) -> int:
    return min(len(content), RIFF_HEAD + int.from_bytes(content[4:RIFF_HEAD], "little"))


STOPS: dict[str, Callable[[bytes], int]] = {
    "JPEG": len, "MPO": len, "WEBP": _riff, "AVIF": _last_data, "HEIF": _last_data,
}  # fmt: skip
"""By Pillow's name of a format: up to where pixels may lie."""
