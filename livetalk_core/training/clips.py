"""Clips of real people to train on: a folder of videos with sound, read as the drawn takes are.

A video is surveyed once, without decoding more than its first picture; what cannot be used is left out, with its
reason. Takes are windows of a video at 25 frames a second, decoded when their frames are asked for, scaled and cropped
to the aspect bucket that fits best: around the face where faces are looked for (`filters`), else in the middle. Sound
and picture share one clock, the container's. A text file beside a clip, of its name, is its prompt.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import check_readable, files_below
from ..media.audio import AudioSource, open_audio
from ..media.crop import Box, Crop
from ..media.image import to_reference
from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME, WAN
from .chance import generator_of
from .data import TAKE_FRAMES, Footage, Size
from .detection import Face
from .filters import FILTERS, LeftOut, framed, judged, weight_of
from .footage import SUFFIXES, moments, pictures_at, survey_reel
from .mouth import standardize

CHUNK_FRAMES = 33


class Clip(NamedTuple):
    """A usable video: frames at 25 a second for which there are picture and sound, and the bucket it is cropped to.

    `begin` is when frame 0 is shown, in seconds of the container's clock: where the sound that is read begins, which is
    with whatever of sound and picture begins first. `shown`: the part of the picture that is seen, None for its middle;
    `face`: where the face is in the picture, if it was looked for; `caption`: its prompt, if it has one.
    """

    path: Path
    frames: int
    begin: float
    size: Size
    shown: Box | None = None
    face: Face | None = None
    caption: str = ""


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
        crop = Crop(box=self.clip.shown)
        return torch.cat([to_reference(picture, *self.clip.size, crop)[0] for picture in pictures], dim=1)

    @property
    def caption(self) -> str:
        """See `Clip`."""
        return self.clip.caption

    def film(self, index: Tensor) -> Footage:
        """The frames of windows `index` [W,T], each ascending; mouth and eyes count more where they are known."""
        video = torch.stack([self.video(window) for window in index])
        weight = torch.ones_like(video[:, :1])
        if self.clip.face is not None and self.clip.shown is not None:
            weight = weight * weight_of(self.clip.face, self.clip.shown, self.clip.size)[:, None]
        return Footage(video, weight)


@dataclass(frozen=True)
class ClipSource:
    """Takes of real clips. `left_out` names each file that cannot be used, and why: the filter's name comes first."""

    clips: Sequence[Clip]
    seed: int = 0
    frames: int = TAKE_FRAMES
    left_out: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        folder: Path,
        buckets: Sequence[Size],
        seed: int = 0,
        frames: int = TAKE_FRAMES,
        least: int = CHUNK_FRAMES,
        filters: Collection[str] = (),
    ) -> "ClipSource":
        """All videos of a folder that have sound and at least `least` frames and that no filter leaves out
        (`filters.FILTERS`), each in the bucket of its aspect.

        `InputError` where none can be used; it says why.
        """
        unknown = sorted(set(filters) - set(FILTERS))
        if unknown:
            raise InputError(f"the unknown filters {', '.join(unknown)}; there are {', '.join(FILTERS)}")
        for size in buckets:
            WAN.check_size(*size)
        check_readable(folder, "clips", "a folder of them", InputError, folders=True)
        files = files_below(folder, SUFFIXES)
        clips: list[Clip] = []
        left_out: dict[Path, str] = {}
        for file in files:
            try:
                clips.append(_filtered(survey(file, buckets, least), filters))
            except InputError as error:
                left_out[file] = str(error)
        source = cls(clips, seed, frames, left_out)
        if not clips:
            raise InputError(f"no clip in {folder} can be used; videos with sound are needed. {source}")
        return source

    def __str__(self) -> str:
        """What is used and what is left out, for people."""
        seconds = sum(clip.frames for clip in self.clips) / FRAMES_PER_SECOND
        counts = Counter(name for reason in self.left_out.values() if (name := reason.partition(":")[0]) in FILTERS)
        filtered = "".join(f", {name}: {count}" for name, count in counts.items())
        lines = [f"{len(self.clips)} clips, {seconds / 60:.1f} minutes; {len(self.left_out)} left out{filtered}"]
        return "\n".join([*lines, *(f"  {path.name}: {reason}" for path, reason in self.left_out.items())])

    @property
    def captions(self) -> list[str]:
        """The prompts of all clips, each once."""
        return list(dict.fromkeys(clip.caption for clip in self.clips if clip.caption))

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
    sound, reel = _opened(path), survey_reel(path)
    begin = min(reel.origin, reel.begin)
    frames = int(min(reel.end - begin, sound.seconds) * FRAMES_PER_SECOND + 1e-6)
    if frames < least:
        raise InputError(f"it is {frames} frames long at {FRAMES_PER_SECOND} a second; at least {least} are needed")
    caption = path.with_suffix(".txt")
    prompt = caption.read_text(errors="replace").strip() if caption.is_file() else ""
    return Clip(path, frames, begin, _bucket(reel.height, reel.width, buckets), caption=prompt)


def _filtered(clip: Clip, filters: Collection[str]) -> Clip:
    """The clip, framed around its face where there are filters; `InputError` where one of them leaves it out."""
    if not filters:
        return clip
    face = judged(clip.path, filters)
    if isinstance(face, LeftOut):
        raise InputError(f"{face.name}: {face.reason}")
    reel = survey_reel(clip.path)
    return clip._replace(face=face, shown=framed(face, (reel.height, reel.width), clip.size))


def read_frames(clip: Clip, places: Sequence[int]) -> list[np.ndarray]:
    """Frames of a clip at ascending places: uint8 [H,W,3] each, the picture that is shown at that moment."""
    return list(pictures_at(clip.path, moments(clip.begin, places)))


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
