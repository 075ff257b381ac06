"""Clips of real people to train on: a folder of videos with sound, read as the drawn takes are.

A video is surveyed once, without decoding more than its first picture; what cannot be used is left out, with its
reason. Takes are windows of a video at 25 frames a second, decoded when their frames are asked for, scaled and
centre-cropped to the aspect bucket that fits best. Sound and picture share one clock, the container's.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from torch import Tensor

from ..errors import InputError
from ..media.audio import AudioSource, open_audio
from ..media.containers import WHITELIST
from ..media.image import check_bounds, to_reference
from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME, WAN
from .chance import generator_of
from .data import TAKE_FRAMES, Footage, Size
from .mouth import standardize

SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"}
CHUNK_FRAMES = 33
MOST_DECODED = 4000
"""Pictures decoded in search of a window: more lie between two key frames of no sensible video."""


class Clip(NamedTuple):
    """A usable video: frames at 25 a second for which there are picture and sound, and the bucket it is cropped to.

    `begin` is when its sound begins, in seconds of the container's clock: frame 0 is shown then.
    """

    path: Path
    frames: int
    begin: float
    size: Size


class ClipTake(NamedTuple):
    """A window of a clip: its first frame, its number of frames, and the standardised 16 kHz sound [S]."""

    clip: Clip
    start: int
    frames: int
    sound: Tensor

    def video(self, index: Tensor) -> Tensor:
        """Frames `index` [T] of the take (ascending) as the models read them: [3,T,H,W] in -1..1."""
        places = [self.start + int(place) for place in index]
        pictures = read_frames(self.clip, places)
        return torch.cat([to_reference(picture, *self.clip.size)[0] for picture in pictures], dim=1)

    def film(self, index: Tensor) -> Footage:
        """The frames of windows `index` [W,T], each ascending; where mouth and eyes are is not known."""
        video = torch.stack([self.video(window) for window in index])
        return Footage(video, torch.ones_like(video[:, :1]))


@dataclass(frozen=True)
class ClipSource:
    """Takes of real clips. `left_out` names each file that cannot be used, and why."""

    clips: Sequence[Clip]
    seed: int = 0
    frames: int = TAKE_FRAMES
    left_out: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path, buckets: Sequence[Size], seed: int = 0, frames: int = TAKE_FRAMES, least: int = CHUNK_FRAMES
    ) -> "ClipSource":
        """All videos of a folder that have sound and at least `least` frames, each in the bucket of its aspect.

        `InputError` where none can be used; it says why.
        """
        for size in buckets:
            WAN.check_size(*size)
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        clips: list[Clip] = []
        left_out: dict[Path, str] = {}
        for file in files:
            try:
                clips.append(survey(file, buckets, least))
            except InputError as error:
                left_out[file] = str(error)
        source = cls(clips, seed, frames, left_out)
        if not clips:
            raise InputError(f"no clip in {folder} can be used; videos with sound are needed. {source}")
        return source

    def __str__(self) -> str:
        """What is used and what is left out, for people."""
        seconds = sum(clip.frames for clip in self.clips) / FRAMES_PER_SECOND
        lines = [f"{len(self.clips)} clips, {seconds / 60:.1f} minutes; {len(self.left_out)} left out"]
        return "\n".join([*lines, *(f"  {path.name}: {reason}" for path, reason in self.left_out.items())])

    @property
    def sizes(self) -> Counter[Size]:
        """How many clips each bucket holds."""
        return Counter(clip.size for clip in self.clips)

    @property
    def turns(self) -> tuple[Size, ...]:
        """Every clip's size, in an order decided by the seed: in turn, they serve each bucket by its clips."""
        order = torch.randperm(len(self.clips), generator=generator_of("turns", self.seed))
        return tuple(self.clips[int(index)].size for index in order)

    def take(self, index: int, size: Size | None = None) -> ClipTake:
        """Take number `index`, always the same, of all clips or of those of one bucket; longer clips come oftener."""
        clips = [clip for clip in self.clips if size in (None, clip.size)]
        if not clips:
            raise InputError(f"no clip of size {size}; there are {dict(self.sizes)}")
        chance = generator_of("clip", self.seed, index)
        lengths = torch.tensor([float(clip.frames) for clip in clips])
        clip = clips[int(torch.multinomial(lengths, 1, generator=chance))]
        frames = min(self.frames, clip.frames)
        start = int(torch.randint(clip.frames - frames + 1, (), generator=chance))
        return ClipTake(clip, start, frames, _sound(clip.path, start, self.frames))


def survey(path: Path, buckets: Sequence[Size], least: int = CHUNK_FRAMES) -> Clip:
    """What a video holds; `InputError` says why it cannot be used."""
    sound = _opened(path)
    with _container(path) as container:
        if not container.streams.video:
            raise InputError("it has no picture; a video with sound is needed")
        begin = _seconds(container.streams.audio[0])
        picture = next(_decoded(container, 0.0), None)
        if picture is None:
            raise InputError("it has no picture that can be decoded; convert it to MP4 first")
        shown = _end_of_picture(container) - begin
    height, width = picture[1].shape[:2]
    check_bounds(width, height, path.name)
    frames = int(min(shown, sound.seconds) * FRAMES_PER_SECOND + 1e-6)
    if frames < least:
        raise InputError(f"it is {frames} frames long at {FRAMES_PER_SECOND} a second; at least {least} are needed")
    return Clip(path, frames, begin, _bucket(height, width, buckets))


def read_frames(clip: Clip, places: Sequence[int]) -> list[np.ndarray]:
    """Frames of a clip at ascending places: uint8 [H,W,3] each, the picture that is shown at that moment."""
    moments = [clip.begin + (place + 0.5) / FRAMES_PER_SECOND for place in places]
    shown: list[np.ndarray] = []
    with _container(clip.path) as container:
        pictures = _decoded(container, moments[0])
        current = following = next(pictures, None)
        for moment in moments:
            while following is not None and following[0] <= moment:
                current, following = following, next(pictures, None)
            if current is None:
                raise InputError(f"{clip.path.name} changed: it has no picture at {moment:.2f} s; start training anew")
            shown.append(current[1])
    return shown


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    """An open video; FFmpeg's errors as `InputError`."""
    try:
        with av.open(str(path), container_options=WHITELIST, metadata_errors="replace") as container:
            yield container
    except FFmpegError as error:
        raise InputError(f"{path.name} cannot be decoded ({error.strerror}); convert it to MP4 first") from error


def _decoded(container: InputContainer, moment: float) -> Iterator[tuple[float, np.ndarray]]:
    """Pictures with their times, from the last key frame before `moment` on."""
    stream = container.streams.video[0]
    base = stream.time_base
    if moment > 0 and base is not None:
        container.seek(max(0, int(moment / base)), stream=stream, backward=True)
    timed = ((frame.time, frame) for frame in container.decode(stream) if frame.time is not None)
    for count, (time, frame) in enumerate(timed):
        if count == MOST_DECODED:
            raise InputError(f"{MOST_DECODED} pictures were decoded in search of one; re-encode it with key frames")
        yield time, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


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


def _seconds(stream: av.AudioStream) -> float:
    """When a stream begins."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _bucket(height: int, width: int, buckets: Sequence[Size]) -> Size:
    """The size whose aspect is nearest in ratio."""
    aspect = np.log(height / width)
    return min(buckets, key=lambda size: abs(np.log(size[0] / size[1]) - aspect))


@lru_cache(maxsize=4)
def _opened(path: Path) -> AudioSource:
    return open_audio(path)


def _sound(path: Path, start: int, frames: int) -> Tensor:
    """Standardised sound of frames [start, start + frames), silence beyond the end: [S]."""
    sound = _opened(path).read(start * SAMPLES_PER_FRAME, frames * SAMPLES_PER_FRAME, SAMPLE_RATE, mono=True)
    return standardize(torch.from_numpy(sound[0]))
