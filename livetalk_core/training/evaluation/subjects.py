"""Who is measured: drawn faces that training never saw, speaking with held-out voices or a recording of a user's.

T frames, S samples of sound.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..data import Take, TakeSource, video
from ..espeak import HELD_VARIANTS, check_espeak, speak, utterances
from ..motion import move
from ..mouth import Mouth
from ..speech import SpeechFolder
from .course import TEXTURE_EVERY
from .picture import Moments, texture

UTTERANCES = 60
"""Of synthetic speech where no recordings are given: about four minutes."""
PORTRAIT_FRAMES = 50
TEXTURE_FRAMES = 2500
"""At most so many frames of a drawn face are looked at for its texture statistics."""


@dataclass(frozen=True)
class Subject:
    """A face with a voice: what it should do, as a take of T frames, and its portrait [1,3,1,H,W] in -1..1."""

    take: Take
    portrait: Tensor

    @property
    def frames(self) -> int:
        """T."""
        return len(self.take.pose.x)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.portrait.shape[-2], self.portrait.shape[-1]

    def drawn(self, index: Tensor) -> Tensor:
        """Frames `index` [n] as the generator draws them: [3,n,H,W]."""
        return video([self.take], index[None], self.size)[0]

    def texture(self) -> Moments:
        """Texture statistics of the drawn frames."""
        moments = Moments()
        for frame in torch.arange(0, min(self.frames, TEXTURE_FRAMES), TEXTURE_EVERY).split(20):
            moments.add(texture(self.drawn(frame)))
        return moments


@dataclass(frozen=True)
class Cast:
    """Any number of subjects who speak for `frames` frames in pictures of `size`."""

    speech: SpeechFolder
    frames: int
    size: tuple[int, int]
    seed: int = 0

    def subject(self, index: int) -> Subject:
        """Subject number `index`, always the same."""
        take = TakeSource(self.speech, self.seed, "held", self.frames).take(index)
        return Subject(take, portrait_of(take, self.size, "portrait", self.seed, index))


def portrait_of(take: Take, size: tuple[int, int], *name: int | str) -> Tensor:
    """The face at another time, silent and with open eyes: [1,3,1,H,W]."""
    silent = Mouth(torch.zeros(PORTRAIT_FRAMES), torch.zeros(PORTRAIT_FRAMES))
    still = take._replace(pose=move(silent, *name))
    return video([still], still.pose.eyes.argmax().view(1, 1), size)


def held_out_speech(path: Path | None, seed: int = 0) -> SpeechFolder:
    """Speech to measure with: a recording, the held-out voices of a folder, or (without `path`) made by espeak-ng."""
    if path is not None:
        return SpeechFolder.open(path, held=True)
    check_espeak()
    return SpeechFolder([speak(utterance) for utterance in islice(utterances(seed, HELD_VARIANTS), UTTERANCES)])
