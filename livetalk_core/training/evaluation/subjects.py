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
from .details import drawn_places
from .photographs import PORTRAITS, picture_of, places_of
from .picture import Moments, texture

UTTERANCES = 60
"""Of synthetic speech where no recordings are given: about four minutes."""
PORTRAIT_FRAMES = 50
TEXTURE_FRAMES = 2500
"""At most so many frames of a drawn face are looked at for its texture statistics."""


@dataclass(frozen=True)
class Subject:
    """A face with a voice: what it should do, as a take of T frames; its portrait [1,3,1,H,W] in -1..1 and the places
    [P,2] of the portrait's patches. Of a photographed one, the take's face is another, who only lends the voice."""

    take: Take
    portrait: Tensor
    places: Tensor
    photographed: bool = False

    @property
    def frames(self) -> int:
        """T."""
        return len(self.take.pose.x)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.portrait.shape[-2], self.portrait.shape[-1]

    def drawn(self, index: Tensor) -> Tensor:
        """Frames `index` [n] as the generator draws them, of a photograph the portrait held still: [3,n,H,W]."""
        if self.photographed:
            return self.portrait[0].expand(-1, len(index), -1, -1)
        return video([self.take], index[None], self.size)[0]

    def texture(self) -> Moments:
        """Texture statistics of the drawn frames."""
        moments = Moments()
        for frame in torch.arange(0, min(self.frames, TEXTURE_FRAMES), TEXTURE_EVERY).split(20):
            moments.add(texture(self.drawn(frame)))
        return moments


@dataclass(frozen=True)
class Cast:
    """Any number of subjects who speak for `frames` frames in pictures of `size`; or, `photographed`, as many as there
    are photographs; or, of one `person`, any number of clips: other words, movements and portraits."""

    speech: SpeechFolder
    frames: int
    size: tuple[int, int]
    seed: int = 0
    photographed: bool = False
    person: int | None = None

    def subject(self, index: int) -> Subject:
        """Subject number `index`, always the same."""
        take = TakeSource(self.speech, self.seed, "held", self.frames, person=self.person).take(index)
        if self.photographed:
            photograph = PORTRAITS[index]
            places = places_of(photograph, self.size)
            return Subject(take, picture_of(photograph, self.size), places, photographed=True)
        still, frame = still_of(take, "portrait", self.seed, index)
        portrait = video([still], torch.tensor([[frame]]), self.size)
        return Subject(take, portrait, drawn_places(still, frame, self.size))


def still_of(take: Take, *name: int | str) -> tuple[Take, int]:
    """The face at another time, silent, and a frame in which its eyes are open."""
    silent = Mouth(torch.zeros(PORTRAIT_FRAMES), torch.zeros(PORTRAIT_FRAMES))
    still = take._replace(pose=move(silent, *name))
    return still, int(still.pose.eyes.argmax())


def held_out_speech(path: Path | None, seed: int = 0) -> SpeechFolder:
    """Speech to measure with: a recording, the held-out voices of a folder, or (without `path`) made by espeak-ng."""
    if path is not None:
        return SpeechFolder.open(path, held=True)
    check_espeak()
    return SpeechFolder([speak(utterance) for utterance in islice(utterances(seed, HELD_VARIANTS), UTTERANCES)])
