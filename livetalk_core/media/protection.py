"""Recordings that are encrypted against copying: FFmpeg reads them as noise, or as damage."""

import re
from pathlib import Path
from typing import BinaryIO

from .boxes import FIRST, boxes

SOUND_ENTRY = re.compile(rb"(?:enca|drms|aavd)\0{6}")
"""How MP4 names sound that is encrypted: by Common Encryption (ISO/IEC 23001-7), by iTunes, by Audible."""
MOST_INDEX = 64 * 2**20
"""Bytes of an index that are looked through."""
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_ENCRYPTIONS = tuple(
    bytes.fromhex(name)
    for name in (
        "fbb3112223bdd211b4b700a0c955fc6e", "14e68a292226174cb935dae07ee9289c", "338505438169e6499b74ad12cb86d58c",
    )
)  # fmt: skip
"""WMA's objects of encryption, of its three kinds (ASF Specification 1.2, sections 3.14 to 3.16)."""
MOST_ASF_HEADER = 2**20


def is_protected(path: Path) -> bool:
    """Whether the sound of a file is encrypted."""
    with path.open("rb") as file:
        head = file.read(24)
        if head[4:8] == FIRST:
            return _in_index(file)
        if head[:16] != ASF_HEADER:
            return False
        header = file.read(min(MOST_ASF_HEADER, int.from_bytes(head[16:24], "little")))
        return any(name in header for name in ASF_ENCRYPTIONS)


def _in_index(file: BinaryIO) -> bool:
    index = next((box for box in boxes(file) if box.name == b"moov"), None)
    if index is None:
        return False
    file.seek(index.start)
    size = MOST_INDEX if index.stop is None else min(MOST_INDEX, index.stop - index.start)
    return SOUND_ENTRY.search(file.read(size)) is not None
