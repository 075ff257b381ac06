"""An endless, seeded supply of drawn people who speak.

A take is one person speaking for some seconds: face, poses of all frames and sound, all decided by (seed, index).
Frames are drawn when asked for, any of them, in any size, on any device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..shapes import SAMPLES_PER_FRAME
from .features import Pose
from .looks import Looks, draw_looks
from .motion import move
from .mouth import Mouth, mouth_of
from .render import Clip, render
from .speech import SpeechFolder

TAKE_FRAMES = 200
"""Frames of a take: 8 s, the sound that the model's live mode hears."""


class Take(NamedTuple):
    """One person speaking: looks of one face, poses [T], standardised 16 kHz sound [S]."""

    looks: Looks
    pose: Pose
    sound: Tensor

    @property
    def mouth(self) -> Mouth:
        """The true course of the mouth, [T] each."""
        return Mouth(self.pose.opening, self.pose.width)


@dataclass(frozen=True)
class TakeSource:
    """Takes of a name: `train`, or `held` for faces, voices and movements that training never sees."""

    speech: SpeechFolder
    seed: int
    name: str = "train"
    frames: int = TAKE_FRAMES

    def take(self, index: int) -> Take:
        """Take number `index`, always the same."""
        name = (self.name, self.seed, index)
        sound = self.speech.draw(name, self.frames * SAMPLES_PER_FRAME, vary=self.name == "train")
        return Take(draw_looks([name]), move(mouth_of(sound, self.frames), *name), sound)


def draw_frames(takes: list[Take], index: Tensor, size: tuple[int, int], device: torch.device | str = "cpu") -> Clip:
    """Frames `index` [B,T] of B takes: a `Clip` whose frames are [B*T,3,H,W], drawn on `device`."""
    fields = vars(takes[0].looks)
    looks = Looks(**{name: torch.cat([getattr(take.looks, name) for take in takes]) for name in fields})
    poses = {name: torch.stack([getattr(take.pose, name) for take in takes]).gather(1, index) for name in _POSE}
    return render(looks.to(device), Pose(**poses).to(device), *size)


def video(takes: list[Take], index: Tensor, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Frames `index` [B,T] of B takes as the models read them: [B,3,T,H,W] in -1..1."""
    return draw_frames(takes, index, size, device).frames.unflatten(0, index.shape).transpose(1, 2).contiguous()


_POSE = tuple(Pose.__dataclass_fields__)
