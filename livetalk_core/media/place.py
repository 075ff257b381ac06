"""The one owner of a video's place: who may write it, under which names, and what of them may be touched.

While `talk.mp4` is unfinished, these lie beside it: `talk.partial.mp4`, which plays; `talk.partial.json`, which says
that the partial is ours and how far it has come; `talk.partial.safetensors`, what it goes on from; and
`talk.partial.lock`, held by the process that writes; for `talk.mov`, `talk.partial.mov`, `talk.partial.mov.json` and
so on. The description is there before the partial and goes after it: a partial without one is somebody else's file, and
is never touched.

Names are made exclusively and never through links; what takes another file's place is written under a name that
nobody can foresee. Once the finished video has its name, nothing can fail any more.
"""

import io
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from filelock import FileLock, Timeout

from ..errors import InputError, ResumeError, TakenError
from ..files import (
    CREATE,
    check_place,
    is_there,
    new_file,
    orphans,
    patiently,
    put_new,
    read_bounded,
    shown,
    sync,
    write_durably,
    writing,
)
from .coding import SUFFIXES

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the description; another one is not read."""
MOST_DESCRIPTION = 2**20
"""Bytes of a description; ours have some thousand."""
LOCK_SECONDS = 0.2
TAIL_BYTES = 65_536
CHOICES = "--resume goes on with it, --overwrite begins anew, another --output leaves it alone"


class OutputPlace:
    """The place of `video`, a name in .mp4 or .mov, free or taken. What needs the lock says so."""

    def __init__(self, video: Path | str) -> None:
        self.video, self.partial = Path(video), partial_path(video)
        self.description, self.tensors, self._lock_file = (
            _beside(self.partial, ending) for ending in (".json", ".safetensors", ".lock")
        )
        self._lock = FileLock(self._lock_file, timeout=LOCK_SECONDS, thread_local=False)

    # Questions

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raise `OutputError` where a render could not begin, before anything is loaded or computed."""
        check_place(self.video)
        with self.held():
            for path in (self.partial, self.description, self.tensors):
                with writing(path):
                    is_there(path)
            self.refuse(resume, overwrite)

    def refuse(self, resume: bool, overwrite: bool) -> None:
        """Raise `TakenError` where what lies here already may not be touched."""
        ours = self.chunks
        if ours is None:
            for path in (self.partial, self.description, self.tensors):
                if is_there(path):
                    raise TakenError(
                        f"{path} is in the way, and nothing beside it tells that it is LiveTalk's; it is not touched: "
                        "move it away, or choose another --output"
                    )
        elif ours and not (resume or overwrite) and is_there(self.partial):
            raise TakenError(f"{self.partial} is an unfinished render; {CHOICES}")
        self.refuse_existing(overwrite)

    def refuse_existing(self, overwrite: bool) -> None:
        """Raise `TakenError` where the video exists and may not be replaced."""
        if is_there(self.video) and not overwrite:
            raise TakenError(
                f"{self.video} exists; it is not overwritten unasked: choose another --output, or give --overwrite"
            )

    def check_differs(self, source: Path, what: str) -> None:
        """Raise `InputError` where what is read would be written over."""
        names = (self.video, self.partial, self.description, self.tensors)
        try:
            same = source.exists() and any(is_there(name) and name.samefile(source) for name in names)
        except (OSError, ValueError):  # no such names: `check` says more
            return
        if same:
            raise InputError(f"{what} {source} is where the output is written; choose another --output")

    @property
    def chunks(self) -> int | None:
        """How many whole chunks an unfinished render of ours has; None where there is none of ours."""
        try:
            said = json.loads(read_bounded(self.description, MOST_DESCRIPTION))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or not {"format", "inputs", "video"} <= set(said):
            return None
        chunk = said.get("next_chunk")
        return chunk if isinstance(chunk, int) else 1  # of another format: worth something, whatever it is

    @property
    def finished(self) -> bool:
        """Whether the video is in place, and what still lies beside it is left over."""
        try:
            said = json.loads(read_bounded(self.description, MOST_DESCRIPTION))["finished"]
            return said == _seal(self.video)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    # The lock

    def acquire(self) -> None:
        """Be the one that writes here, until `release` was called as often; `TakenError` where another one is."""
        with writing(self._lock_file):
            self.video.parent.stat()  # the library would make the folder
            self._check_lock_file()
            try:
                self._lock.acquire()
            except Timeout:
                raise TakenError(
                    f"{self.partial} is being written by another render; choose another --output, or wait until it "
                    "has ended"
                ) from None

    def _check_lock_file(self) -> None:
        """Raise `TakenError` for what is no lock of ours: a pipe, or content, which older filelock empties."""
        with suppress(FileNotFoundError):
            there = self._lock_file.lstat()
            if not stat.S_ISREG(there.st_mode) or there.st_size:
                raise TakenError(
                    f"{self._lock_file} is in the way: it is no empty file, which LiveTalk's locks are; it is not "
                    "touched: move it away, or choose another --output"
                )

    def release(self) -> None:
        """Let others write here."""
        if self._lock.lock_counter == 1:
            with suppress(OSError):  # of no size: else it is somebody's
                there = self._lock_file.lstat()
                if stat.S_ISREG(there.st_mode) and not there.st_size:
                    self._lock_file.unlink()
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock, for a while."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    # What the holder of the lock may do

    def create_partial(self) -> io.FileIO:
        """A new partial, open for reading and writing."""
        with writing(self.partial):
            return io.FileIO(os.open(self.partial, CREATE, 0o666), "r+b")

    def open_partial(self) -> io.FileIO:
        """The partial that is there."""
        with writing(self.partial):
            return io.FileIO(os.open(self.partial, CREATE & ~(os.O_CREAT | os.O_EXCL)), "r+b")

    def describe(self, said: dict[str, Any]) -> None:
        """Replace the description, on the disk when this returns."""
        write_durably(self.description, json.dumps({"format": FORMAT, **said}, indent=1).encode())

    def read_description(self) -> dict[str, Any]:
        """What was described; `ResumeError` where it cannot be read or is of another format."""
        try:
            said = json.loads(read_bounded(self.description, MOST_DESCRIPTION))
            form = said["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ResumeError(unreadable(self.description, str(error))) from error
        if form != FORMAT or isinstance(form, bool):
            raise ResumeError(unreadable(self.description, f"it has format {form!r}, this version reads {FORMAT}"))
        return said

    @contextmanager
    def finishing(self, overwrite: bool) -> Iterator[Path]:
        """Where to write the finished video; in the end it has its name, and what lay beside it is gone.

        Only what fails before that is raised: `OSError`, or `TakenError` where the video has come to exist meanwhile.
        """
        with new_file(self.video) as temporary:
            yield temporary
            sync(temporary)
            if is_there(self.description):
                self.describe({**self.read_description(), "finished": _seal(temporary)})
            self._put(temporary, overwrite)
        with suppress(OSError):
            sync(self.video.parent)

    def _put(self, temporary: Path, overwrite: bool) -> None:
        """Give the finished video its name."""
        if not overwrite:
            try:
                return put_new(temporary, self.video)
            except FileExistsError:
                self.refuse_existing(overwrite)
        return patiently(lambda: os.replace(temporary, self.video))  # noqa: PTH105

    def clear(self) -> None:
        """Delete what a finished render of ours leaves, or one that is begun anew: the description last.

        What cannot be deleted is said, and no error.
        """
        for path in (self.partial, self.tensors, self.description):
            try:
                patiently(lambda path=path: path.unlink(missing_ok=True))
            except OSError as error:
                logger.warning("%s stays (%s); nothing needs it any more: delete it", path, error.strerror)
                return

    def clear_ours(self) -> None:
        """Delete an unfinished render of ours, which the caller may overwrite, and what killed writers left."""
        if self.chunks is not None:
            self.clear()
        self.sweep()

    def sweep(self) -> None:
        """Delete what killed writers left under temporary names."""
        for path in (self.video, self.description, self.tensors):
            for orphan in orphans(path):
                with suppress(OSError):
                    orphan.unlink()


def partial_path(path: Path | str) -> Path:
    """Where the video of `path` grows: `name.partial.mp4` for `name.mp4`."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"output {shown(path)}; a name that ends in .mp4 is needed, or with the codec prores in .mov: change its "
            "ending"
        )
    return path.with_suffix(f".partial{path.suffix.lower()}")


def description_path(path: Path | str) -> Path:
    """What lies beside the unfinished video of `path`, and says that it is ours."""
    return _beside(partial_path(path), ".json")


def _beside(partial: Path, ending: str) -> Path:
    """A file of a partial's: two containers, two videos, that may have one name up to the ending."""
    return partial.with_suffix(ending if partial.suffix == SUFFIXES[0] else partial.suffix + ending)


def unreadable(description: Path, reason: str) -> str:
    """What is said of a description that makes no sense."""
    return (
        f"{description} cannot be read ({reason[:200]}); the partial video still plays: keep it under another name "
        "and render anew"
    )


def _seal(video: Path) -> dict[str, int]:
    """What tells a finished video from another one: its size, and a sum of its end."""
    with video.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return {"bytes": size, "sum": crc32(file.read())}
