"""Files of a Hugging Face repository: listed with their sizes and hashes, fetched with what is there kept, checked.

The requests are huggingface_hub's; it keeps no part of a download that broke off, so the parts are kept here.
"""

import errno
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ...errors import CheckpointError, OutputError
from ...files import sync

BLOCK = 2**24
AGAIN = "run the same command again"


class RemoteFile(NamedTuple):
    """A file as the hub lists it: the digest is SHA-256, or that of a git blob where the hub knows no other."""

    repository: str
    revision: str
    name: str
    size: int
    sha256: str
    git_sha1: str

    def is_whole(self, path: Path) -> bool:
        """Whether what is at `path` is this file, by size and hash."""
        if path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode())
        for block in _blocks(path):
            digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


class Repository(NamedTuple):
    """What the hub says of a repository."""

    name: str
    licence: str
    files: tuple[RemoteFile, ...]

    def matching(self, pattern: str) -> list[RemoteFile]:
        """The files of this name or pattern; a `CheckpointError` where there are none."""
        files = [file for file in self.files if fnmatchcase(file.name, pattern)]
        if not files:
            raise CheckpointError(
                f"{self.name} holds no {pattern} (any more); needed is it: look at https://huggingface.co/{self.name}, "
                "and update LiveTalk"
            )
        return files


def look_up(name: str, endpoint: str | None = None) -> Repository:
    """What the hub says of a repository now; asks for a list, and for no file."""
    try:
        with _quiet():
            info = HfApi(endpoint=endpoint).model_info(name, files_metadata=True)
    except Exception as error:  # of the library and of its transport, which has been replaced more than once
        raise CheckpointError(f"the hub gives no list of {name} ({_reason(error)}); {AGAIN} with a network") from error
    card = info.card_data
    licence = card.get("license") if card is not None else None
    files = [
        RemoteFile(name, str(info.sha), each.rfilename, each.size or 0, _sha256(each.lfs), each.blob_id or "")
        for each in info.siblings or ()
        if _stays_inside(each.rfilename)
    ]
    return Repository(name, licence or "not stated", tuple(files))


def _sha256(lfs: object) -> str:
    return str(getattr(lfs, "sha256", "") or "")


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def part_of(target: Path, file: RemoteFile) -> Path:
    """Where a file grows until it is whole: another version of it is another part."""
    return target.with_name(f"{target.name}.{(file.sha256 or file.git_sha1)[:12]}.part")


def fetch(file: RemoteFile, target: Path, endpoint: str | None = None) -> None:
    """Bring a file to `target`, going on where an earlier try broke off; nothing is there before it is whole.

    `CheckpointError` where the hub breaks off or gives something else, `OutputError` for the disk.
    """
    part = part_of(target, file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            _append(file, part, endpoint)
    except Exception as error:  # see `look_up`
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise OutputError(f"cannot write {part}: {error.strerror}; make room, or choose another --to") from error
        raise CheckpointError(
            f"{file.repository} broke off at {file.name} ({_reason(error)}); what is there is kept: {AGAIN} to go on"
        ) from error
    if not file.is_whole(part):
        part.unlink()
        raise CheckpointError(
            f"{file.name} of {file.repository} is not what the hub lists (its size or hash differs), and was deleted; "
            f"{AGAIN}; if this comes again, something between the hub and here changes files"
        )
    sync(part)
    part.replace(target)


def _append(file: RemoteFile, part: Path, endpoint: str | None) -> None:
    url = hf_hub_url(file.repository, file.name, revision=file.revision, endpoint=endpoint)
    with part.open("ab") as sink:
        there = sink.tell()
        if there > file.size:
            sink.truncate(0)
            there = 0
        if there < file.size:
            http_get(
                url,
                sink,
                resume_size=there,
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.name,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's lines about each of its own tries: what comes of them is said by us, once."""
    library = logging.getLogger("huggingface_hub")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            yield block


def _reason(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
