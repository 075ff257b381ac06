"""Pictures beside drawn faces: photographs of a folder, and pictures made of overlapping shapes.

Overlapping shapes of all sizes have the edges and the statistics of photographs (the dead leaves model, Lee, Mumford
and Huang 2001), in any number. Sides in pixels; colours in -1..1.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..files import check_readable, files_below, make_folder
from .canvas import box, column, ellipse
from .chance import generator_of, spread, uniform

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
PHOTOGRAPHS = (
    "brick.png", "cell.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg", "text.png",
)  # fmt: skip
"""Of those that scikit-image has with it; its others are kept for evaluation."""
LONGEST = 1024
SHAPES = 50
PHOTOGRAPHED = 0.5
"""Share of pictures that are photographs, where there are any."""


@dataclass(frozen=True)
class PictureFolder:
    """Photographs in memory, [3,H,W] bytes each; without any, all pictures are made of shapes."""

    photographs: tuple[Tensor, ...] = ()

    @classmethod
    def open(cls, folder: Path | None) -> "PictureFolder":
        """All pictures of a folder."""
        if folder is None:
            return cls()
        check_readable(folder, "pictures", "a folder of them", InputError, folders=True)
        files = files_below(folder, SUFFIXES)
        if not files:
            raise InputError(f"{folder} holds no pictures; make some (`train pictures`) or add yours")
        return cls(tuple(map(_read, files)))

    def draw(self, side: int, *name: int | str) -> Tensor:
        """Some part of some picture, coloured at random, [3,side,side]; always the same for a name."""
        chance = generator_of("picture", *name)
        shown = bool(self.photographs) and uniform(chance, 0, 1) < PHOTOGRAPHED
        return _coloured(self._part(side, chance) if shown else overlapping_shapes(side, chance), chance)

    def _part(self, side: int, chance: torch.Generator) -> Tensor:
        """A square of a photograph in -1..1, made smaller by any factor, mirrored at times."""
        picture = self.photographs[int(torch.randint(len(self.photographs), (), generator=chance))]
        height, width = picture.shape[1:]
        length = int(side * (max(1.0, min(height, width) / side) ** uniform(chance, 0, 1)))
        length = min(length, height, width)
        top, left = (int(uniform(chance, 0, extent - length + 1)) for extent in (height, width))
        part = picture[:, top : top + length, left : left + length].float() / 127.5 - 1
        part = part.flip(2) if uniform(chance, 0, 1) < 0.5 else part
        return F.interpolate(part[None], size=(side, side), mode="bilinear", antialias=True)[0]


def collect_photographs(folder: Path) -> list[Path]:
    """Put the photographs of scikit-image that are there to train on into a folder, as PNG; returns their files."""
    try:
        place = Path(str(import_module("skimage").__file__)).parent / "data"
    except ModuleNotFoundError:
        raise InputError("photographs come with scikit-image; install it: pip install scikit-image") from None
    make_folder(folder)
    files: list[Path] = []
    for name in PHOTOGRAPHS:
        files.append(folder / f"{Path(name).stem}.png")
        Image.open(place / name).convert("RGB").save(files[-1])
    return files


def overlapping_shapes(side: int, chance: torch.Generator) -> Tensor:
    """Ellipses and boxes of all sizes upon each other, many of them striped: [3,side,side] in -1..1."""
    place = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(place, place, indexing="ij")
    # As many of each size as fills the picture alike; the largest lie below.
    size = (0.02 * (0.6 / 0.02) ** torch.rand(SHAPES, generator=chance)).sort(descending=True).values
    middle, turn = torch.rand(2, SHAPES, generator=chance), spread(chance, 0, math.pi, SHAPES)
    dx, dy = (at - column(values) for at, values in zip((x, y), middle, strict=True))
    cos, sin = column(turn.cos()), column(turn.sin())
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    long, short = column(size), column(size * spread(chance, 0.25, 1, SHAPES))
    round_ = column(torch.rand(SHAPES, generator=chance) < 0.6)
    distance = torch.where(round_, ellipse(along, across, long, short), box(along, across, long, short, 0.0))
    soft = column((0.15 * size) * (torch.rand(SHAPES, generator=chance) < 0.3))
    cover = (0.5 - distance / (1 / side + soft)).clamp(0, 1)
    colors = _palette(chance)[torch.randint(6, (SHAPES,), generator=chance)]
    colors = colors + spread(chance, -0.25, 0.25, SHAPES, 3)
    stripes = torch.sin(along * column(spread(chance, 10, 2.2 * side, SHAPES)))
    stripes = stripes * column(spread(chance, 0, 0.35, SHAPES) * (torch.rand(SHAPES, generator=chance) < 0.5))
    picture = colors[0][:, None, None].expand(-1, side, side)
    for number in range(SHAPES):
        picture = torch.lerp(picture, colors[number][:, None, None] + stripes[number], cover[number])
    grain = uniform(chance, 0, 0.06) * torch.randn(1, side, side, generator=chance)
    return (picture + grain).clamp(-1, 1)


def _palette(chance: torch.Generator) -> Tensor:
    """Six colours around a common one: [6,3]."""
    return spread(chance, -0.6, 0.6, 1, 3) + spread(chance, -0.7, 0.7, 6, 1) + spread(chance, -0.35, 0.35, 6, 3)


def _coloured(picture: Tensor, chance: torch.Generator) -> Tensor:
    """Contrast, brightness and each colour changed a little."""
    gain = uniform(chance, 0.7, 1.15) * (1 + spread(chance, -0.15, 0.15, 3, 1, 1))
    return (picture * gain + spread(chance, -0.15, 0.15, 3, 1, 1) + uniform(chance, -0.15, 0.15)).clamp(-1, 1)


def _read(file: Path) -> Tensor:
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((LONGEST, LONGEST))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def moved(picture: Tensor, frames: int, size: int, chance: torch.Generator) -> Tensor:
    """A picture [3,s,s] through a window of `size` pixels that slides, turns and grows slowly: [3,frames,size,size]."""
    time = torch.linspace(0, frames / 33, frames)[:, None]
    start, way = spread(chance, -1, 1, 4), spread(chance, -1, 1, 4)
    bend = spread(chance, -1, 1, 4)
    course = start + way * time + bend * torch.sin(2 * math.pi * time)
    x, y, turn, scale = (course * torch.tensor([0.08, 0.08, 0.15, 0.06])).unbind(1)
    zoom = size / picture.shape[-1] * (1 + scale)
    matrix = torch.stack([zoom * turn.cos(), -zoom * turn.sin(), x, zoom * turn.sin(), zoom * turn.cos(), y], dim=1)
    grid = F.affine_grid(matrix.view(-1, 2, 3), [frames, 3, size, size], align_corners=False)
    seen = F.grid_sample(picture.expand(frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)
    return seen.transpose(0, 1)
