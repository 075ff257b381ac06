"""Files that are read and written: paths looked at before the work, content on the disk whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LiveTalkError, OutputError

NAME_SHOWN = 200
"""Characters of a path that a message shows at most."""


def check_readable(path: Path, what: str, needed: str, error: type[LiveTalkError], folders: bool = False) -> None:
    """Raise `error` unless `path` is a file that can be opened (or, with `folders`, a folder that can be listed).

    Whatever a path may be, this is all that comes of it: `what` it should be and what is `needed` go into the message.
    """
    fault = fault_of(path, folders)
    if fault is not None:
        raise error(f"{what} {shown(path)} {fault}; {needed} is needed: check the path")


def fault_of(path: Path, folders: bool = False) -> str | None:
    """Why a path is no file (or, with `folders`, no folder either) that can be opened; None where it can."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return os.scandir(path).close() if folders else "is a folder"
        return path.open("rb").close() if stat.S_ISREG(mode) else "is no regular file"
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:  # no permission, a name too long, links in a circle, a null character
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


def shown(path: Path) -> str:
    """A path as a message shows it: of a very long one, the beginning and the end."""
    text = str(path)
    half = NAME_SHOWN // 2
    return text if len(text) <= NAME_SHOWN else f"{text[:half]}...{text[-half:]}"


def check_place(path: Path) -> None:
    """Raise `OutputError` where no file could be written at `path`: before the work that ends in it."""
    if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises where a folder may not be searched
        raise OutputError(f"{path.parent} is no folder; {path.name} is written there: create it first")
    if os.path.isdir(path):  # noqa: PTH112
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
