"""Sound out of a container, read on past whatever is damaged.

Which of several tracks is taken, which of its packets cannot be decoded, and what the headers promise.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.stream import Disposition, Stream

from ..errors import InputError
from . import ogg
from .claims import lacks_end, unfilled
from .containers import WHITELIST, address, opening, tags_before, unreadable
from .wav import Part, PartFile

BUFFER = 2**18
MOST_FAILED_READS = 32
"""Times in a row that a container may fail to give a packet before the rest counts as lost."""
RAW = {
    "mp3", "aac", "ac3", "eac3", "dts", "amr", "amrnb", "amrwb", "gsm", "wav", "w64", "au", "aiff", "voc", "tta",
    "loas", "mlp", "truehd", "sox", "nistsphere", "ircam", "dsf",
}  # fmt: skip
"""Formats without timestamps: FFmpeg counts the packets, those that hold no sound too."""
EQUAL_PACKETS = {"amr"}
"""Formats whose packets last equally long, however few their bytes: FFmpeg cannot decode those of a pause."""
SYNC_BYTES, LEAST_SYNC_BYTES = 4, 2
"""Of each packet's beginning, how many are compared, and how many must be the same in all to be a sync word."""
WITHOUT_ZEROS = {"mp3", "aac", "ac3", "eac3", "dts", "loas", "mpegts"}
"""Formats of short frames, each with a sync word: many zeros at the end are no sound."""
TAGS = (b"ID3", b"TAG", b"APETAG", b"LYRICS")
LENGTH_IN_HEADER = {"flac", "tta", "wv", "ape", "caf", "ogg", "mov,mp4,m4a,3gp,3g2,mj2"}
"""Formats whose headers, or last page, say how long each track is. Many an MP3 has such a header, too."""
MATROSKA = "matroska,webm"
LOST_START_SECONDS = 5.0
"""A first page of Ogg holds about a second; a file that begins later was cut out of a stream, and has lost nothing."""
OGG_SLACK_SECONDS = 0.1
"""By which the last page may count more than there is to hear: the encoder's delay."""
XING_SLACK = 4096
"""Bytes that an MP3 may have behind those its header counts: tags."""
MOST_MISSING = 0.2
"""Of an MP3 with all its bytes; junk between them may have cost some of its sound."""
CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


class Fault(NamedTuple):
    """A packet that could not be decoded: how many packets' worth of bytes it has, 0 where it is a tag."""

    packets: float


class Track(NamedTuple):
    """One sound track of an opened container.

    `raw`: it has no timestamps. `origin`: second, in the track's own time, at which a file with a picture begins;
    None without one. `promised`: seconds that the headers say it lasts, None where they do not. `cut`: the file lacks
    its end. `latest_start`: sample from which on a first one means that the start is lost; None where nothing tells.
    `most_missing`: part of the promise that may not be there; if more is missing, the promise was false.
    """

    container: InputContainer
    stream: av.AudioStream
    raw: bool
    origin: float | None
    promised: float | None
    cut: bool
    latest_start: int | None
    most_missing: float = 1.0


class Choice(NamedTuple):
    """A track by its number among all streams, what the user should know of the choice, and the file's seconds."""

    index: int
    note: str
    seconds: float | None


@contextmanager
def opened(path: Path, part: Part | None) -> Iterator[InputContainer]:
    """The container of a file, or of one part of it. `InputError` where FFmpeg knows it not."""
    file: Any = PartFile(path, part) if part else None
    try:
        with opening(path):
            container = av.open(
                file or address(path), container_options=WHITELIST, metadata_errors="replace", buffer_size=BUFFER
            )
        with container:
            yield container
    finally:
        if file:
            file.close()


def choices(path: Path, part: Part | None) -> list[Choice]:
    """The tracks that can be decoded, the best first: the one marked as default, else the first."""
    with opened(path, part) as container:
        streams = container.streams.audio
        usable = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise InputError(f"{path} has no sound; a file with an audio stream is needed: choose another")
        if not usable:
            raise InputError(f"sound of {path} has an unknown coding; convert it to WAV first")
        ordered = sorted(usable, key=lambda stream: not stream.disposition & Disposition.default)
        seconds = container.duration / av.time_base if container.duration else None
        return [Choice(stream.index, _note(list(streams), stream), seconds) for stream in ordered]


def _note(streams: list[Any], chosen: Any) -> str:
    if len(streams) == 1:
        return ""
    unknown = [str(number) for number, stream in enumerate(streams, 1) if stream.codec_context is None]
    note = f"track {streams.index(chosen) + 1} of {len(streams)} sound tracks is used"
    return note + (f"; track {', '.join(unknown)} has an unknown coding" if unknown else "")


@contextmanager
def track(path: Path, part: Part | None, index: int) -> Iterator[Track]:
    """Stream number `index` of a file, or of one part of it."""
    with opened(path, part) as container:
        stream: Any = container.streams[index]
        name = container.format.name
        told = None if part is None else part.seconds
        promised = _promised(path, container, stream, name) if told is None else told
        ends = ogg.ends(path, ogg.Link(part.start, part.stop) if part else None) if name == "ogg" else None
        if ends and promised is not None:
            promised -= ends.skipped / stream.sample_rate
        if ends and promised is not None and 0 < ends.latest_start < LOST_START_SECONDS * stream.sample_rate:
            promised = max(promised, ends.length / stream.sample_rate - OGG_SLACK_SECONDS)
        whole = part is None or part[:2] == (0, path.stat().st_size)
        lacking = whole and (
            lacks_end(path, name) or (promised is None and name in WITHOUT_ZEROS and unfilled(path) > 0)
        )
        cut, latest = (ends.cut, ends.latest_start) if ends else (lacking, None)
        most_missing = MOST_MISSING if name == "mp3" and -XING_SLACK <= _bytes_missing(path) <= 0 else 1.0
        yield Track(container, stream, name in RAW, _origin(container), promised, cut, latest, most_missing)


def _origin(container: InputContainer) -> float | None:
    timed = [stream for stream in container.streams if stream.type in ("audio", "video") and not _cover(stream)]
    if not any(stream.type == "video" for stream in timed):
        return None
    starts = [float(s.start_time * s.time_base) for s in timed if s.start_time is not None and s.time_base]
    return min(starts, default=None)


def _cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _promised(path: Path, container: InputContainer, stream: av.AudioStream, name: str) -> float | None:
    if name in LENGTH_IN_HEADER or (name == "mp3" and _bytes_missing(path) >= -XING_SLACK):
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if name != MATROSKA:
        return None
    if match := CLOCK.match(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    alone = len(container.streams) == 1
    return container.duration / av.time_base if container.duration and alone else None


def _bytes_missing(path: Path) -> float:
    """How many bytes an MP3 lacks of those that its Xing header counts; -inf without one, below 0: others follow."""
    begin = tags_before(path)
    with path.open("rb") as file:
        file.seek(begin)
        first = file.read(1024)
    place = max(first.find(b"Xing"), first.find(b"Info"))
    flags, size = (int.from_bytes(first[place + at : place + at + 4], "big") for at in (4, 12))
    return size - (path.stat().st_size - unfilled(path) - begin) if place >= 0 and flags & 3 == 3 else -math.inf


def decoded(path: Path, source: Track) -> Iterator[av.AudioFrame | Fault]:
    """The track's frames from the beginning, and its faults between them. `InputError` where there is no frame."""
    good, first_error, any_frame = _Good(), None, False
    for packet in _packets(source):
        if isinstance(packet, FFmpegError):
            first_error = first_error or packet
            continue
        try:
            frames = packet.decode()
        except FFmpegError as error:
            if isinstance(error, EndOfFile):
                continue
            first_error = first_error or error
            yield Fault(1.0 if source.container.format.name in EQUAL_PACKETS else good.worth(packet))
            continue
        good.add(packet)
        for frame in frames:
            any_frame = True
            yield frame
    if not any_frame:
        raise unreadable(path, first_error)


class _Good:
    """What the packets have in common that could be decoded: their size, and how they begin (a sync word)."""

    def __init__(self) -> None:
        self._size = self._count = 0
        self._start: bytes | None = None

    def add(self, packet: av.Packet) -> None:
        """One more; the last of a file is empty."""
        if packet.size:
            self._size, self._count = self._size + packet.size, self._count + 1
            start = bytes(memoryview(packet)[:SYNC_BYTES])
            if self._start is None:
                self._start = start
            elif not start.startswith(self._start):
                self._start = _common(self._start, start)

    def worth(self, packet: av.Packet) -> float:
        """How many packets there were in a bad one, by its sync words or its bytes; 0 in a tag."""
        data = bytes(packet)
        if data[:6].startswith(TAGS):
            return 0.0
        by_size = len(data) * self._count / max(1, self._size) if self._count else 1.0
        start = self._start or b""
        words = data.count(start) if len(start) >= LEAST_SYNC_BYTES else 0
        return max(by_size, float(words))


def _common(one: bytes, other: bytes) -> bytes:
    """How both begin."""
    return bytes(a for number, a in enumerate(one) if other[: number + 1] == one[: number + 1])


def _packets(source: Track) -> Iterator[Any]:
    """The track's packets, and the container's errors between them."""
    failed = 0
    while failed < MOST_FAILED_READS:
        try:
            for packet in source.container.demux(source.stream):
                failed = 0
                yield packet
            return
        except FFmpegError as error:
            failed += 1
            yield error
