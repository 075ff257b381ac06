"""Media files as they are opened: which kinds are read, what is refused before FFmpeg sees it, and its errors."""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

from ..errors import InputError
from ..files import check_readable
from .protection import is_protected

# Containers that hold their own data. Playlists and scripts (hls, dash, concat, sdp ...) name other files and URLs.
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dv,eac3,flac,flv,gsm,iff,ircam,loas,matroska,webm,mlp,mov,mp4,m4a,3gp,"
    "3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,rm,sox,tak,truehd,tta,voc,w64,wav,wtv,wv"
)
BIG_ENDIAN_WAV = b"RIFX"
OTHER_KINDS = {
    rb"\x02?#!SILK": "SILK, which messengers record and few programs read",
    rb"#!AMR": "a damaged AMR recording",
    rb"NIST_1A": "NIST SPHERE in a coding that is not read, or a damaged one",
    rb"RIFF.{4}CDDA": "a link to a track of a CD, which has to be copied as sound",
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|.{4}ftyp(?:avif|hei|mif1)|II\*\x00|MM\x00\*|8BPS": "a picture",
    rb"PK\x03\x04|7z\xbc\xaf|Rar!|\x1f\x8b": "an archive, which has to be unpacked first",
    rb"MThd": "MIDI, which holds notes and no sound",
    rb"SQLite format 3": "a database, such as Audacity's projects are, which have to be exported as sound",
    rb"MZ|\x7fELF|\xcf\xfa\xed\xfe": "a program",
    rb"%PDF|\xd0\xcf\x11\xe0": "a document",
    rb"\xff\xfe|\xfe\xff": "a text file",
}
"""How files begin that are now and then taken for a recording."""
TEXT_BYTES, TEXT_SHOWN = 256, 64
"""Bytes that are looked at, and characters of the first line that are shown."""
ID3_HEAD, ID3_FOOTER = 10, 0x10
"""Bytes of an ID3v2 tag's head, and the flag of one that is repeated at its end (id3.org, ID3v2.4)."""
WHITELIST = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


def checked(path: Path) -> Path:
    """The resolved path of a regular file that holds something; `InputError` for anything else."""
    check_readable(path, "sound", "a media file on this machine", InputError)
    if not path.stat().st_size:
        raise InputError(f"sound {path} is empty; a whole media file is needed: copy or download it again")
    if head(path, len(BIG_ENDIAN_WAV)) == BIG_ENDIAN_WAV:  # FFmpeg reads it in the other order, as noise
        raise InputError(
            f"sound {path} is a WAV in big-endian order (RIFX), which is not read; an ordinary one is needed: convert "
            "it, with SoX for instance"
        )
    if is_protected(path):
        raise InputError(
            f"sound {path} is encrypted against copying (DRM); one that every player can read is needed: get it "
            "without protection from where it comes from"
        )
    return path.resolve()


def address(path: Path) -> str:
    """A path as FFmpeg takes it for a file's, whatever its name: `a:b.mp4` begins as the address of a server does."""
    return f"file:{path}"


def head(path: Path, size: int = 64) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def unreadable(path: Path, error: FFmpegError | None) -> InputError:
    """What to say of a file that gives no sound."""
    reason = other_kind(path) or text_start(path)
    if not reason and error is None:
        return InputError(f"sound of {path} has no samples; at least one is needed: choose a recording with sound")
    reason = reason or f"damaged, cut off or of another kind ({error.strerror if error else ''})"
    return InputError(
        f"sound {path} is {reason}; a whole audio or video file is needed: get a new copy, or convert it to WAV"
    )


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """FFmpeg's errors on opening as `InputError`."""
    try:
        yield
    except FFmpegError as error:
        raise unreadable(path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system refuses of a file that was there a moment ago, as `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"sound {path} cannot be read ({error.strerror or error}); it has to stay where it is, on a disk that can "
            "be read: look whether it still does, or copy it elsewhere"
        ) from error


def other_kind(path: Path) -> str:
    """What a file is that holds no sound, by its beginning; empty where nothing tells."""
    first = head(path)
    return next((what for start, what in OTHER_KINDS.items() if re.match(start, first, re.DOTALL)), "")


def text_start(path: Path) -> str:
    """How a text file in place of a recording begins: HTML, a playlist, a script."""
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(head(path, TEXT_BYTES))  # the last letter may be cut off
    except UnicodeDecodeError:
        return ""
    lines = text.strip().splitlines()
    printable = all(line.replace("\t", " ").isprintable() for line in lines)
    return f"a text file that begins with {lines[0][:TEXT_SHOWN]!r}" if lines and printable else ""


def tags_before(path: Path) -> int:
    """Bytes of the ID3 tags that a file begins with: FFmpeg looks behind them in MP3 and a few others alone."""
    size = 0
    with path.open("rb") as file:
        while (tag := file.read(ID3_HEAD))[:3] == b"ID3" and len(tag) == ID3_HEAD:
            size += ID3_HEAD * (2 if tag[5] & ID3_FOOTER else 1) + sum(
                (byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(tag[6:]))
            )
            file.seek(size)
    return size
