"""Whether the portrait's own details are still there: patches of eyes, brows, mouth and hairline, looked for nearby.

Each patch of the portrait is compared with all places of a frame that lie near its own, by normalised correlation of
the luma (1: the same but for brightness and contrast; about 0: something else); the best place counts, so a head that
moves a little loses nothing.

N frames, P patches; places in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Take
from ..faces import VIEW
from ..render import place

PATCHES = ("left_eye", "right_eye", "left_brow", "right_brow", "mouth", "hairline")
"""Of a portrait, in the order of places; left and right as in the picture."""
SIDE, REACH = 0.14, 0.1
"""Side of a patch, and how far around its own place it is looked for; shares of the picture's short side."""


def drawn_places(take: Take, frame: int, size: tuple[int, int]) -> Tensor:
    """Where a drawn face has its patches, [P,2] as x, y in pixels."""
    looks = take.looks
    pose = take.pose.map(lambda values: values[frame : frame + 1])
    brow_y, none = looks.eye_y - looks.brow_y, torch.zeros_like(looks.eye_x)
    top = torch.where(looks.has_hair > 0, looks.hairline, -looks.head_ry)
    spots = ((-looks.eye_x, looks.eye_y), (looks.eye_x, looks.eye_y), (-looks.eye_x, brow_y), (looks.eye_x, brow_y),
             (none, looks.mouth_y), (none, top))  # fmt: skip
    seen = torch.cat([place(looks, pose, x, y) for x, y in spots])
    return seen * min(size) / (2 * VIEW) + torch.tensor([size[1], size[0]]) / 2


@dataclass(frozen=True)
class Patches:
    """Patches [P,s,s] of a portrait's luma, and where in a frame (padded by `margin`) each is looked for."""

    patches: Tensor
    corners: tuple[tuple[int, int], ...]
    margin: int

    @classmethod
    def of(cls, portrait: Tensor, places: Tensor) -> "Patches":
        """From the portrait [3,1,H,W] in -1..1 and its places [P,2]."""
        short = min(portrait.shape[-2:])
        side, reach = max(3, round(SIDE * short)), max(1, round(REACH * short))
        margin = side + reach
        padded = _padded_luma(portrait, margin)[0]
        limit = torch.tensor([portrait.shape[-1], portrait.shape[-2]]) - 1
        middles = places.round().long().clamp_min(0).minimum(limit) + margin
        corners = tuple((int(y) - side // 2, int(x) - side // 2) for x, y in middles)
        patches = torch.stack([padded[y : y + side, x : x + side] for y, x in corners])
        return cls(patches, tuple((y - reach, x - reach) for y, x in corners), margin)

    def find(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Best correlation in frames [3,N,H,W], and the detail there over the portrait's: [P,N] both."""
        padded = _padded_luma(frames, self.margin)
        best = [self._find_one(padded, patch, corner) for patch, corner in zip(self.patches, self.corners, strict=True)]
        correlation, detail = zip(*best, strict=True)
        return torch.stack(correlation), torch.stack(detail)

    def _find_one(self, padded: Tensor, patch: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        (y, x), side = corner, len(patch)
        extent = side + 2 * (self.margin - side)
        near = padded[:, y : y + extent, x : x + extent].unfold(1, side, 1).unfold(2, side, 1)
        near = near.flatten(1, 2)
        correlation = (_standard(near) * _standard(patch)).sum((-2, -1))
        best, at = correlation.max(dim=1)
        return best, _detail(near[torch.arange(len(near)), at]) / _detail(patch).clamp_min(1e-4)


def _padded_luma(frames: Tensor, margin: int) -> Tensor:
    """Frames [3,N,H,W] -> [N,H+2m,W+2m], the border repeated."""
    return F.pad(frames.float().mean(0)[None], [margin] * 4, mode="replicate")[0]


def _standard(patches: Tensor) -> Tensor:
    """Patches [...,s,s] without their mean, of length 1."""
    centred = patches - patches.mean((-2, -1), keepdim=True)
    return centred / centred.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-4)


def _detail(patches: Tensor) -> Tensor:
    """Mean size of second differences in patches [...,s,s]."""
    inner = patches[..., 1:-1, 1:-1]
    around = patches[..., :-2, 1:-1] + patches[..., 2:, 1:-1] + patches[..., 1:-1, :-2] + patches[..., 1:-1, 2:]
    return (inner - around / 4).abs().mean((-2, -1))
