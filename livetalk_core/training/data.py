"""An endless, seeded supply of drawn people who speak.

A take is one person speaking for some seconds: face, poses of all frames and sound, all decided by (seed, index).
Frames are drawn when asked for, any of them, in any size, on any device.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..shapes import SAMPLES_PER_FRAME
from .altered import Alteration
from .chance import generator_of, uniform
from .faces import picture_grid
from .features import Pose
from .looks import Looks, draw_looks
from .motion import move
from .mouth import Mouth, mouth_of
from .pictures import PictureFolder
from .render import Clip, Cover, render
from .speech import SpeechFolder

TAKE_FRAMES = 200
"""Frames of a take: 8 s, the sound that the model's live mode hears."""
FEATURE_RADIUS = 0.12
"""Of the weight around mouth and eyes; a picture's short side is 1.64."""
FEATURE_WEIGHT = 6.0

HELD_SEED = 0
"""Of the people who are measured."""
COVER_SIDE = 112
"""Of a picture that covers a face, in pixels."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Take(NamedTuple):
    """One person speaking: looks of one face, poses [T], standardised 16 kHz sound [S]; pictures may cover the face,
    and what is drawn may be altered."""

    looks: Looks
    pose: Pose
    sound: Tensor
    cover: Cover | None = None
    alteration: Alteration | None = None

    @property
    def mouth(self) -> Mouth:
        """The true course of the mouth, [T] each."""
        return Mouth(self.pose.opening, self.pose.width)


class Footage(NamedTuple):
    """Windows of takes: `video` [B,3,T,H,W] in -1..1, and how much each point counts, `weight` [B,1,T,H,W]."""

    video: Tensor
    weight: Tensor


class DrawnScene(NamedTuple):
    """A take that is drawn in one size."""

    take: Take
    size: Size

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.take.pose.x)

    @property
    def sound(self) -> Tensor:
        """See `Take`."""
        return self.take.sound

    @property
    def caption(self) -> str:
        """None of its own."""
        return ""

    def film(self, index: Tensor) -> Footage:
        """The frames of windows `index` [W,T]."""
        video, weight = film([self.take] * len(index), index, self.size)
        changed = self.take.alteration
        return Footage(video, weight) if changed is None else Footage(changed.video(video), changed.bent(weight))


@dataclass(frozen=True)
class TakeSource:
    """Takes of a name: `train`, or `held` for faces, voices and movements that training never sees.

    `liveliness`: see `motion.move`. `covered`: share of the takes whose ground, hair, clothes or skin show a picture of
    `pictures`: what they look like can be known from the portrait alone. So it is with the share `altered`, whose
    colours and shapes are changed where they are drawn as a scene. `phrased`: see `motion.move`. `person`: the number
    of the person of `held` takes whom all takes show; None: another person each.
    """

    speech: SpeechFolder
    seed: int
    name: str = "train"
    frames: int = TAKE_FRAMES
    liveliness: float = 1.0
    pictures: PictureFolder = field(default_factory=PictureFolder)
    covered: float = 0.0
    altered: float = 0.0
    phrased: bool = False
    person: int | None = None

    def take(self, index: int) -> Take:
        """Take number `index`, always the same."""
        name = (self.name, self.seed, index)
        sound = self.speech.draw(name, self.frames * SAMPLES_PER_FRAME, vary=self.name == "train")
        pose = move(mouth_of(sound, self.frames), *name, liveliness=self.liveliness, phrased=self.phrased)
        cover = self._cover(*name) if self.covered else None
        changed = uniform(generator_of("altered", *name), 0, 1) < self.altered
        looks = name if self.person is None else ("held", HELD_SEED, self.person)
        return Take(draw_looks([looks]), pose, sound, cover, Alteration.of(*name) if changed else None)

    def _cover(self, *name: int | str) -> Cover:
        """A picture and how much of it shows: none at all in the takes that are not covered."""
        chance = generator_of("cover", *name)
        there = (uniform(chance, 0, 1) < self.covered) * (torch.rand(3, generator=chance) < 0.6)
        share = there * torch.rand(3, generator=chance) * torch.tensor([1.0, 0.9, 0.6])
        picture = self.pictures.draw(COVER_SIDE, *name) if share.any() else torch.zeros(3, COVER_SIDE, COVER_SIDE)
        return Cover((picture[None] + 1) / 2, share[None])

    def scene(self, index: int, size: Size) -> DrawnScene:
        """Take number `index`, to be drawn in a size."""
        return DrawnScene(self.take(index), size)


def draw_frames(takes: list[Take], index: Tensor, size: Size, device: torch.device | str = "cpu") -> Clip:
    """Frames `index` [B,T] of B takes: a `Clip` whose frames are [B*T,3,H,W], drawn on `device`."""
    fields = vars(takes[0].looks)
    looks = Looks(**{name: torch.cat([getattr(take.looks, name) for take in takes]) for name in fields})
    poses = {name: torch.stack([getattr(take.pose, name) for take in takes]).gather(1, index) for name in _POSE}
    covers = [take.cover for take in takes if take.cover is not None]
    cover = Cover(*(torch.cat(part).to(device) for part in zip(*covers, strict=True))) if covers else None
    return render(looks.to(device), Pose(**poses).to(device), *size, cover)


def film(takes: list[Take], index: Tensor, size: Size) -> Footage:
    """Frames `index` [B,T] of B takes, mouth and eyes weighed more."""
    clip = draw_frames(takes, index, size)
    parts = (clip.frames, _feature_weight(clip.places, size))
    return Footage(*(part.unflatten(0, index.shape).transpose(1, 2) for part in parts))


def _feature_weight(places: Tensor, size: Size) -> Tensor:
    """1 in a picture, more around mouth and eyes ([N,3,2] from the picture's centre): [N,1,H,W]."""
    x, y = picture_grid(*size, places.device)
    dx, dy = x - places[..., 0, None, None], y - places[..., 1, None, None]
    spots = torch.exp(-(dx**2 + dy**2) / FEATURE_RADIUS**2)
    return 1 + FEATURE_WEIGHT * spots.sum(1, keepdim=True).clamp(max=1)


def video(takes: list[Take], index: Tensor, size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Frames `index` [B,T] of B takes as the models read them: [B,3,T,H,W] in -1..1."""
    return draw_frames(takes, index, size, device).frames.unflatten(0, index.shape).transpose(1, 2).contiguous()


_POSE = tuple(Pose.__dataclass_fields__)
