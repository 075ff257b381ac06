"""A rendered video with its sound, by any tool: frames at 25 a second in flat memory, and the sound at 16 kHz."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ....errors import InputError
from ....media.audio import open_audio
from ....shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from ...footage import moments, pictures_at, survey_reel
from ...mouth import standardize

BATCH_PIXELS = 8_000_000
"""Pixels that are looked at together."""
LEAST_SECONDS = 3.0
"""Shorter videos say nothing of lip sync."""
SLACK_SECONDS = 0.5
"""By which sound and picture may differ in length."""


@dataclass(frozen=True)
class Render:
    """`frames` frames at 25 a second, the first of them shown at second `begin` of the file, and the standardised sound
    [S] that belongs to them. `size`: height and width in pixels."""

    path: Path
    frames: int
    begin: float
    size: tuple[int, int]
    sound: Tensor

    @classmethod
    def open(cls, path: Path, audio: Path | None = None) -> "Render":
        """A video with its own sound, or with that of the file `audio`, which begins with the first picture.

        `InputError` where there is no picture or no sound, where they are shorter than `LEAST_SECONDS`, or where their
        lengths differ by more than `SLACK_SECONDS`.
        """
        try:
            reel = survey_reel(path)
        except InputError as error:
            raise InputError(f"{path.name} cannot be judged: {error}") from error
        try:
            source = open_audio(path if audio is None else audio)
        except InputError as error:
            if audio is not None or "has no sound" not in str(error):
                raise
            raise InputError(
                f"{path} has no sound; lips are judged against speech: name it with --audio FILE"
            ) from None
        begin = min(reel.origin, reel.begin) if audio is None else reel.begin
        shown = reel.end - begin
        if abs(shown - source.seconds) > SLACK_SECONDS:
            raise InputError(
                f"{path.name} shows {shown:.2f} s and its sound ({(audio or path).name}) lasts {source.seconds:.2f} s; "
                f"needed is the same length to {SLACK_SECONDS} s: give the sound that the video was made with"
            )
        frames = int(min(shown, source.seconds) * FRAMES_PER_SECOND + 1e-6)
        if frames < LEAST_SECONDS * FRAMES_PER_SECOND:
            raise InputError(
                f"{path.name} is {frames / FRAMES_PER_SECOND:.2f} s long; at least {LEAST_SECONDS:.0f} s are needed"
            )
        sound = source.read(0, frames * SAMPLES_PER_FRAME, SAMPLE_RATE, mono=True)[0]
        return cls(path, frames, begin, (reel.height, reel.width), standardize(torch.from_numpy(sound)))

    def batches(self) -> Iterator[Tensor]:
        """All frames in order, some at a time: [3,n,H,W] in -1..1."""
        size = max(1, min(FRAMES_PER_SECOND, BATCH_PIXELS // (self.size[0] * self.size[1])))
        pictures: list[np.ndarray] = []
        for picture in pictures_at(self.path, moments(self.begin, range(self.frames))):
            pictures.append(picture)
            if len(pictures) == size:
                yield as_frames(pictures, self.size)
                pictures = []
        if pictures:
            yield as_frames(pictures, self.size)

    def samples(self, count: int) -> list[np.ndarray]:
        """`count` pictures spread over the video, the first one first: uint8 [H,W,3] each."""
        places = torch.linspace(0, self.frames - 1, min(count, self.frames)).long().tolist()
        return list(pictures_at(self.path, moments(self.begin, places)))


def as_frames(pictures: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Pictures [H,W,3] in uint8 as frames [3,n,H,W] in -1..1; one of another size is scaled to `size`."""
    frames = [torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None] for picture in pictures]
    fitting = [
        frame.float()
        if frame.shape[2:] == size
        else F.interpolate(frame.float(), size, mode="bilinear", antialias=True)
        for frame in frames
    ]
    return (torch.cat(fitting) / 127.5 - 1).transpose(0, 1)
