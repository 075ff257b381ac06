"""Photographs that training never sees, out of packages that have them with them.

scikit-image: the astronaut Eileen Collins (NASA, public domain) and others without a face; matplotlib: Grace Hopper
(US Navy, public domain).
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import InputError


class Photograph(NamedTuple):
    """A square out of a package's file, `left, top, side`, and in the file's pixels the `places` of `PATCHES`."""

    package: str
    file: str
    square: tuple[int, int, int]
    places: tuple[tuple[int, int], ...] = ()


ASTRONAUT = ((203, 101), (246, 103), (202, 91), (247, 92), (224, 146), (222, 79))
HOPPER = ((220, 188), (306, 187), (219, 176), (308, 175), (268, 277), (268, 135))
PORTRAITS = (
    Photograph("skimage", "data/astronaut.png", (75, 0, 300), ASTRONAUT),
    Photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (12, 0, 500), HOPPER),
    Photograph("skimage", "data/astronaut.png", (112, 6, 224), ASTRONAUT),
    Photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (68, 12, 400), HOPPER),
)
"""Two people, each from further away and from near."""
OTHERS = (
    Photograph("skimage", "data/camera.png", (0, 0, 512)),
    Photograph("skimage", "data/chelsea.png", (75, 0, 300)),
    Photograph("skimage", "data/coffee.png", (100, 0, 400)),
    Photograph("skimage", "data/rocket.jpg", (106, 0, 427)),
)


def picture_of(photograph: Photograph, size: tuple[int, int]) -> Tensor:
    """The square in `size` pixels: [1,3,1,H,W] in -1..1."""
    try:
        place = Path(str(import_module(photograph.package).__file__)).parent
    except ModuleNotFoundError:
        name = {"skimage": "scikit-image"}.get(photograph.package, photograph.package)
        raise InputError(f"photographs come with {name}; install it: pip install {name}") from None
    left, top, side = photograph.square
    image = Image.open(place / photograph.file).convert("RGB")
    seen = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return (torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None, :, None] / 127.5 - 1).contiguous()


def places_of(photograph: Photograph, size: tuple[int, int]) -> Tensor:
    """Its patches' places, [P,2] as x, y in pixels of a picture of `size`."""
    left, top, side = photograph.square
    scale = torch.tensor([size[1], size[0]]) / side
    return (torch.tensor(photograph.places) - torch.tensor([left, top])) * scale
