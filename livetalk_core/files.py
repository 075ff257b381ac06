"""Files that are written: their place looked at before the work, their content on the disk whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def check_place(path: Path) -> None:
    """Raise `OutputError` where no file could be written at `path`: before the work that ends in it."""
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} is no folder; {path.name} is written there: create it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; needed is the name of a file: choose another one")


def sync(path: Path) -> None:
    """Make sure that a file, or what a folder lists, is on disk. Windows cannot do this for folders."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, advice: str = "free some space or choose another folder") -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end: a crash leaves the old or the new file, never a part.

    What the disk refuses is an `OutputError` with this `advice`.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Replace what `path` holds by `data`; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
