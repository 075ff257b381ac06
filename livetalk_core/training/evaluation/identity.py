"""Whether it is still the same person: the face, aligned by its measured pose, against the reference's.

A frame's face is seen through a grid of places on the head; each place is looked up where the measured pose shows it,
so that a turned, moved or tilted head gives the same picture. The distance is the mean colour difference over the head
without what moves by itself, and over that for itself, the features (eyes with brows, and mouth): CIE76 in Lab, of
which 2.3 is about what an eye just notices.

N frames, P places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.color import rgb_to_lab
from ..faces import VIEW, picture_grid
from .geometry import EYE_X, EYE_Y, HEAD_HEIGHT, HEAD_WIDTH, MOUTH_Y, Measures, look_up, where_seen

POINTS = 48
"""Places along each side of the grid; about a pixel of a 128 px frame each."""


def face_places(features: bool = False) -> tuple[Tensor, Tensor]:
    """The places that are compared, x and y [P] from the head's middle: the head without eyes, brows and mouth, or its
    `features`, which are these."""
    x, y = (values.flatten() for values in picture_grid(POINTS, POINTS, torch.device("cpu")))
    x, y = x / VIEW * HEAD_WIDTH, y / VIEW * HEAD_HEIGHT
    head = (x / HEAD_WIDTH) ** 2 + (y / HEAD_HEIGHT) ** 2 < 0.9
    eyes = ((x.abs() - EYE_X) / 0.125) ** 2 + ((y - EYE_Y + 0.03) / 0.11) ** 2 < 1
    mouth = (x / 0.165) ** 2 + ((y - MOUTH_Y - 0.045) / 0.12) ** 2 < 1
    seen = head & ((eyes | mouth) == features)
    return x[seen], y[seen]


def aligned_face(frames: Tensor, measures: Measures, features: bool = False) -> Tensor:
    """Lab colours [N,P,3] at the places of frames [3,N,H,W] in -1..1; see `face_places`."""
    seen = look_up(frames.transpose(0, 1).float(), where_seen(*face_places(features), measures))
    return rgb_to_lab((seen.transpose(1, 2).clamp(-1, 1) + 1) / 2)


@dataclass(frozen=True)
class Identity:
    """A person to compare with: `face` and `features` [1,P,3] each in Lab."""

    face: Tensor
    features: Tensor

    @classmethod
    def of(cls, reference: Tensor, measures: Measures) -> "Identity":
        """From the reference frame [3,1,H,W] in -1..1 and what it shows."""
        return cls(aligned_face(reference, measures), aligned_face(reference, measures, features=True))

    def distance(self, frames: Tensor, measures: Measures) -> Tensor:
        """How far frames [3,N,H,W] are from that person, but for the features: [N], 0 or more."""
        return (aligned_face(frames, measures) - self.face).norm(dim=-1).mean(-1)

    def distance_of_features(self, frames: Tensor, measures: Measures) -> Tensor:
        """How far eyes, brows and mouth are in frames [3,N,H,W], in what they look like and do: [N], 0 or more."""
        return (aligned_face(frames, measures, features=True) - self.features).norm(dim=-1).mean(-1)
