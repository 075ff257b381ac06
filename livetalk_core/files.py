"""Files that are read and written: paths looked at before the work, content on the disk whole or not at all."""

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from .errors import LiveTalkError, OutputError

T = TypeVar("T")

MISSING = "does not exist"
LONGEST_SECRET = 65_536
"""Bytes of a secret, a key or a token."""
PIPE_SECONDS, PIPE_LOOK_SECONDS = 10.0, 0.02
"""How long a pipe is waited for, and how often it is looked at."""
STAND_INS = {
    b"\x00\x05\x16\x07": "is what macOS keeps beside a file, whose name is without the '._'",
    b"book\0\0\0\0mark": "is a macOS alias of another file",
    b"L\0\0\0\x01\x14\x02\0": "is a Windows shortcut to another file",
    b"bplist00": "is a property list, such as iCloud has in place of a file that it has not downloaded yet",
}
"""How files begin that stand for others, and what they are."""
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
        if not stat.S_ISREG(mode):
            return "is not a regular file"
        with path.open("rb") as file:
            start = file.read(max(map(len, STAND_INS)))
        return next((what for begin, what in STAND_INS.items() if start.startswith(begin)), None)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except (OSError, ValueError) as error:  # no permission, a name too long, links in a circle, a null character
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


def read_secret_file(path: Path, error: type[LiveTalkError]) -> bytes:
    """What a file, or a pipe, holds that has no more than `LONGEST_SECRET` bytes, without the space around it.

    Raises `error` for any other.
    """
    try:
        secret = _first_bytes(path, LONGEST_SECRET + 1).strip()
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{shown(path)} cannot be read ({reason}); a file with one line is needed") from None
    if len(secret) > LONGEST_SECRET:
        raise error(
            f"{shown(path)} has more than {LONGEST_SECRET} bytes; a file with one line is needed: check the path"
        )
    return secret


def _first_bytes(path: Path, count: int) -> bytes:
    """So many bytes of a file, or all that it has; of a pipe what is written within `PIPE_SECONDS`, however slowly."""
    if not path.is_fifo():
        with path.open("rb") as file:
            return file.read(count)
    content, until = b"", time.monotonic() + PIPE_SECONDS
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while len(content) < count and time.monotonic() < until:
            piece = _available(handle, count - len(content))
            content += piece or b""
            if b"\n" in content or (piece == b"" and content):  # a line, or whoever wrote has ended
                break
            time.sleep(0 if piece else PIPE_LOOK_SECONDS)
    finally:
        os.close(handle)
    return content


def _available(handle: int, count: int) -> bytes | None:
    """What can be read at once; nothing where nobody writes, None where a writer has not written yet."""
    try:
        return os.read(handle, count)
    except BlockingIOError:
        return None


def read_bounded(path: Path, most: int) -> bytes:
    """All that a regular file of at most `most` bytes holds; `OSError` for a pipe, a device, or a larger one."""
    with os.fdopen(
        os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
    ) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def shown(path: Path) -> str:
    """A path as a message shows it: what no terminal should get as an escape; of a very long one, its two ends."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))
    half = NAME_SHOWN // 2
    return text if len(text) <= NAME_SHOWN else f"{text[:half]}...{text[-half:]}"


PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between two tries at a file that another program holds."""
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Never what is there already, and never through a link."""
HELD = "a virus scanner, an indexer or a player holds it, or you may not write here: close it, or choose another folder"
WINDOWS = os.name == "nt"
NO_NAME_ON_WINDOWS = re.compile(
    r"""[<>:"|?*\x00-\x1f]|[ .]$|^(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(?:\.|$)""", re.IGNORECASE
)
"""What is written there goes to a device, into a stream beside a file, or nowhere: unseen until the work is done."""
ADVICE = {
    errno.EACCES: HELD,
    errno.EPERM: HELD,
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "create the folder first",
    errno.ELOOP: "it is a symbolic link, which is not followed: remove it or choose another name",
    errno.EFBIG: "use a disk that takes larger files",
    errno.EISDIR: "it is a folder: remove it or choose another name",
    errno.EMFILE: "close some files, or raise their limit (ulimit -n)",
    errno.ENFILE: "close some programs: the system can open no more files",
    errno.ENOTDIR: "what is above it is no folder: choose another place",
}
"""What to do about an error of the disk."""
NO_SPACE = "free some space or choose another folder"


def check_place(path: Path) -> None:
    """Raise `OutputError` where no file could be written at `path`: before the work that ends in it."""
    _check_name(path)
    with writing(path):
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent} is no folder; {path.name} is written there: create it first")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; needed is the name of a file: choose another one")
        if path.exists() and not path.is_file():  # a pipe, a device: also behind a link such as /dev/stdout
            raise OutputError(f"{shown(path)} is no file, and what is written replaces it: choose another name")
        if is_there(path) and not path.is_symlink() and not os.access(path, os.W_OK):
            raise OutputError(f"{path} is write-protected; it is to be replaced: choose another name")
        with new_file(path):
            pass


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none; `OutputError` where no file could be put into it."""
    check_folder(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with new_file(path / "file"):
            pass


def check_folder(path: Path) -> None:
    """Raise `OutputError` where there is no folder, and none could be made because of what is there."""
    _check_name(path)
    with writing(path):
        if is_there(path) and not path.is_dir():
            raise OutputError(f"{shown(path)} is a file; needed is a folder: choose another one")


def _check_name(path: Path) -> None:
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r} holds a null character, which no name may have: choose another one")
    if WINDOWS and NO_NAME_ON_WINDOWS.search(path.name):
        raise OutputError(
            f"{shown(path)} has a name that Windows gives no file: a device's, such as CON or NUL, one with any of "
            '<>:"|?*, or one that ends in a dot or a space: choose another one'
        )


def files_below(folder: Path, endings: Iterable[str]) -> list[Path]:
    """The regular files of a folder and those in it whose names end so, sorted; what cannot be listed is left out."""
    files: list[Path] = []
    for place, _, names in os.walk(folder):
        paths = (Path(place, name) for name in names)
        files += [path for path in paths if path.suffix.lower() in endings and path.is_file()]
    return sorted(files)


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included; `OSError` where none can have it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def writing(path: Path, advice: str = "", kept: str = "") -> Iterator[None]:
    """What the disk refuses, as `OutputError`: with this `advice`, or that of `ADVICE`; `kept` is said at its end."""
    try:
        yield
    except OSError as error:
        advice = advice or ADVICE.get(error.errno or 0, NO_SPACE)
        raise OutputError(f"cannot write {path} ({error.strerror or error}): {advice}{kept}") from error


def patiently(action: Callable[[], T]) -> T:
    """Do it, again and again for a moment where another program holds the file: on Windows scanners do."""
    for pause in PAUSES:
        try:
            return action()
        except PermissionError:
            time.sleep(pause)
    return action()


def sync(path: Path) -> None:
    """Make sure that a file, or what a folder lists, is on disk. Windows cannot do this for folders."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody can foresee, for what will take its place."""
    return path.with_name(f"{_mark(path)}{secrets.token_hex(8)}.tmp")


def orphans(path: Path) -> list[Path]:
    """What killed processes left of what was to take the place of `path`; whoever calls knows that none is at work."""
    pattern = re.compile(re.escape(_mark(path)) + r"[0-9a-f]{16}\.tmp")
    return [file for file in path.parent.glob(f"{_mark(path)}*.tmp") if pattern.fullmatch(file.name)]


def _mark(path: Path) -> str:
    return f"livetalk-{crc32(os.fsencode(path.name)):08x}-"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """An empty file of a temporary name beside `path`; gone at the end, unless it was renamed."""
    temporary = temporary_name(path)
    os.close(os.open(temporary, CREATE, 0o666))
    try:
        yield temporary
    finally:
        with suppress(OSError):
            patiently(lambda: temporary.unlink(missing_ok=True))


@contextmanager
def replacing(path: Path, advice: str = "", new: bool = False) -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end: a crash leaves the old or the new file, never a part.

    What the disk refuses is an `OutputError`, with this `advice` if there is one. With `new`, what somebody else has
    put there meanwhile is refused, too, and stays.
    """
    with writing(path, advice=advice), new_file(path) as temporary:
        yield temporary
        sync(temporary)
        if not new:
            return patiently(lambda: temporary.replace(path))
        try:
            put_new(temporary, path)
        except FileExistsError:
            raise OutputError(f"{path} has come to exist meanwhile; it is left as it is: choose another name") from None


def put_new(temporary: Path, path: Path) -> None:
    """Give a file its name; `FileExistsError` where something has it already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links
        if is_there(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        patiently(lambda: os.rename(temporary, path))  # noqa: PTH104 - as `link` above


def write_durably(path: Path, data: bytes) -> None:
    """Replace what `path` holds by `data`; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
