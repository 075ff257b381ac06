"""The pictures of a video file by the moments at which they are shown; its sound is on the same clock."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from ..errors import InputError
from ..media.containers import WHITELIST, address
from ..media.image import check_bounds
from ..shapes import FRAMES_PER_SECOND

SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"}
MOST_DECODED = 4000
"""Pictures decoded in search of a moment: more lie between two key frames of no sensible video."""


class Reel(NamedTuple):
    """What a video shows: the seconds at which its first picture begins and its last one ends, and the size of the
    first, upright. `origin` is where the sound that `media.audio` reads begins: with whatever begins first."""

    begin: float
    end: float
    origin: float
    height: int
    width: int


def survey_reel(path: Path) -> Reel:
    """See `Reel`; no more than the first picture is decoded. `InputError` says why a file cannot be used."""
    with opened(path) as container:
        streams = container.streams
        if not streams.video:
            raise InputError("it has no picture; a video with sound is needed")
        first = next(_decoded(container, 0.0), None)
        if first is None:
            raise InputError("it has no picture that can be decoded; convert it to MP4 first")
        end = _end_of_picture(container)
        starts = [_start(stream) for stream in (*streams.video, *streams.audio) if stream.start_time is not None]
    height, width = _upright(first[1]).shape[:2]
    check_bounds(width, height, path.name)
    return Reel(first[0], end, min(starts, default=0.0), height, width)


def moments(begin: float, places: Sequence[int]) -> list[float]:
    """The middles of frames `places` at 25 a second, where frame 0 begins at second `begin`."""
    return [begin + (place + 0.5) / FRAMES_PER_SECOND for place in places]


def pictures_at(path: Path, seconds: Sequence[float]) -> Iterator[np.ndarray]:
    """The pictures that are shown at ascending moments: uint8 [H,W,3] each."""
    with opened(path) as container:
        pictures = _decoded(container, seconds[0])
        current = following = next(pictures, None)
        for moment in seconds:
            while following is not None and following[0] <= moment:
                current, following = following, next(pictures, None)
            if current is None:
                raise InputError(f"{path.name} changed: it has no picture at {moment:.2f} s; start anew")
            yield _upright(current[1])


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """An open video; FFmpeg's errors as `InputError`."""
    try:
        with av.open(address(path), container_options=WHITELIST, metadata_errors="replace") as container:
            yield container
    except FFmpegError as error:
        raise InputError(f"{path.name} cannot be decoded ({error.strerror}); convert it to MP4 first") from error


def _decoded(container: InputContainer, moment: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures with their times, from the last key frame before `moment` on."""
    stream = container.streams.video[0]
    base = stream.time_base
    if moment > 0 and base is not None:
        container.seek(max(0, int(moment / base)), stream=stream, backward=True)
    timed = ((frame.time, frame) for frame in container.decode(stream) if frame.time is not None)
    reached = False
    for count, (time, frame) in enumerate(timed):
        reached = reached or time > moment
        if count == MOST_DECODED and not reached:
            raise InputError(f"{MOST_DECODED} pictures were decoded in search of one; re-encode it with key frames")
        yield time, frame


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """A picture as it is to be seen: uint8 [H,W,3]."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def _end_of_picture(container: InputContainer) -> float:
    """When the last picture ends, in seconds: from the packets, as headers may claim anything."""
    stream = container.streams.video[0]
    container.seek(0, stream=stream)
    ends = [
        float((packet.pts + (packet.duration or 0)) * packet.time_base)
        for packet in container.demux(stream)
        if packet.pts is not None
    ]
    return max(ends, default=0.0)


def _start(stream: av.VideoStream | av.AudioStream) -> float:
    """When a stream begins."""
    return float((stream.start_time or 0) * (stream.time_base or 0))
