"""Takes in other colours and of other shapes, the same in all of their frames.

What a face looks like then cannot be known from other faces, only from its portrait: so a model learns to look there.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .chance import generator_of, spread, uniform

BENDS = ((4, 0.035), (10, 0.014))
"""Points a side at which a picture is pulled away, and the deviation of how far; its half side is 1."""
GREY = torch.tensor([0.299, 0.587, 0.114])


class Alteration(NamedTuple):
    """`colors` [3,3] and `offset` [3] of the new colours in -1..1, and where each place is taken from: `bends`
    [2,n,n] as x, y, for each of `BENDS`."""

    colors: Tensor
    offset: Tensor
    bends: tuple[Tensor, ...]

    @classmethod
    def of(cls, *name: int | str) -> "Alteration":
        """Always the same for a name."""
        chance = generator_of("alteration", *name)
        colors = _hue(uniform(chance, -math.pi, math.pi), uniform(chance, 0.2, 1.2)) * uniform(chance, 0.6, 1.15)
        offset = spread(chance, -0.15, 0.15, 3) + uniform(chance, -0.2, 0.2)
        bends = [torch.randn(2, points, points, generator=chance) * far for points, far in BENDS]
        return cls(colors, offset, tuple(bends))

    def video(self, video_BCTHW: Tensor) -> Tensor:
        """Frames [B,3,T,H,W] in -1..1, altered."""
        colored = torch.einsum("dc,bcthw->bdthw", self.colors, video_BCTHW) + self.offset[:, None, None, None]
        return self.bent(colored.clamp(-1, 1))

    def bent(self, values_BCTHW: Tensor) -> Tensor:
        """[B,C,T,H,W] with its shapes altered."""
        count, size = values_BCTHW.shape[2], values_BCTHW.shape[3:]
        off = torch.stack([F.interpolate(bend[None], size, mode="bicubic")[0] for bend in self.bends]).sum(0)
        straight = F.affine_grid(torch.eye(2, 3)[None], [1, 1, *size], align_corners=False)
        grid = (straight + off.permute(1, 2, 0)).expand(len(values_BCTHW) * count, -1, -1, -1)
        flat = values_BCTHW.transpose(1, 2).flatten(0, 1)
        seen = F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
        return seen.unflatten(0, (-1, count)).transpose(1, 2)


def _hue(angle: float, saturation: float) -> Tensor:
    """Colours turned around grey, and made paler or stronger: [3,3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    root = math.sqrt(1 / 3)
    turned = torch.full((3, 3), (1 - cos) / 3)
    turned += torch.tensor(
        [[cos, -root * sin, root * sin], [root * sin, cos, -root * sin], [-root * sin, root * sin, cos]]
    )
    return torch.lerp(GREY.expand(3, -1), turned, saturation)
