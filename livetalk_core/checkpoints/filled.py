"""Weights that are zeros since a download took the room for a file and did not fill all of it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from .header import AGAIN, Checkpoint, read_header

logger = logging.getLogger(__name__)

LEAST_BYTES, SAMPLE_BYTES = 2**16, 2**12
"""Of a tensor that is looked at, and of each of the places in it that are: no trained one is zero in all of them."""


def warn_of_zeros(checkpoint: Checkpoint) -> None:
    """Warn where large weights of a model are nothing but zeros; that is no error, since they may be meant."""
    for path in checkpoint.files:
        empty = dict(_empty(path))
        if not empty:
            continue
        share, example = sum(empty.values()) / path.stat().st_size, next(iter(empty))
        logger.warning(
            "%s: %d of its weights, such as %s, are nothing but zeros, %.0f %% of the file, as a download that was "
            "stopped may leave them; if the picture is wrong, %s", path, len(empty), example, 100 * share, AGAIN,
        )  # fmt: skip


def _empty(path: Path) -> Iterator[tuple[str, int]]:
    """The large tensors of a safetensors file that are zero wherever it is looked, with their bytes."""
    with path.open("rb") as file:
        entries, begin = json.loads(read_header(file)), file.tell()
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            start, stop = (begin + offset for offset in entry["data_offsets"])
            if stop - start < LEAST_BYTES:
                continue
            for place in ((start + stop) // 2, start, stop - SAMPLE_BYTES):
                file.seek(place)
                if any(file.read(SAMPLE_BYTES)):
                    break
            else:
                yield name, stop - start
