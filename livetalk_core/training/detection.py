"""Where the face is: found from the front by scikit-image's cascade of local binary patterns, or named by the user.

The cascade (Ojala's patterns, trained by OpenCV's authors) comes with the package; nothing is downloaded.
"""

from collections.abc import Sequence
from importlib import import_module
from math import isfinite
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import InputError

CASCADE = "lbpcascade_frontalface_opencv.xml"
SEARCHED_SIDE = 160
"""Pixels of the short side in which faces are sought."""
LEAST_SIDE = 24
"""Pixels of the smallest face in it."""
LEAST_SHARE = 0.3
"""Of the pictures looked at, in which a face must be seen: a false alarm comes and goes."""
OVERLAP = 0.3
"""Intersection over union from which on two boxes are the same face's."""


class Face(NamedTuple):
    """A box from forehead to chin, in pixels of the picture."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> "Face":
        """`LEFT,TOP,WIDTH,HEIGHT`."""
        try:
            face = cls(*(float(part) for part in text.split(",")))
        except (TypeError, ValueError):
            raise InputError(
                f"{text!r} is no face; write LEFT,TOP,WIDTH,HEIGHT in pixels, such as 140,130,230,230"
            ) from None
        if not all(map(isfinite, face)):
            raise InputError(f"{text!r} is no face; finite numbers of pixels are needed")
        if min(face.width, face.height) < LEAST_SIDE:
            raise InputError(
                f"a face of {face.width:.0f}x{face.height:.0f} px; at least {LEAST_SIDE} px a side are needed"
            )
        return face

    def at(self, across: float, down: float) -> tuple[float, float]:
        """A place in the picture, given in shares of the box."""
        return self.left + across * self.width, self.top + down * self.height

    def inside(self, size: tuple[int, int]) -> bool:
        """Whether most of it lies in a picture of this height and width."""
        x, y = self.at(0.5, 0.5)
        return 0 < x < size[1] and 0 < y < size[0]

    def overlap(self, other: "Face") -> float:
        """Intersection over union."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        down = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        shared = max(0.0, across) * max(0.0, down)
        return shared / (self.width * self.height + other.width * other.height - shared)


def find_faces(pictures: Sequence[np.ndarray], name: str) -> list[Face]:
    """Faces that are seen in pictures [H,W,3] of one video, the most constant first, then by size.

    `InputError` where there is none; it names the video `name`.
    """
    boxes = [detect(picture) for picture in pictures]
    faces = sorted(_constant(boxes), key=lambda face: face.width * face.height, reverse=True)
    if not faces:
        seen = sum(map(bool, boxes))
        raise InputError(
            f"no face is seen in {name} ({len(pictures)} pictures looked at, one suspected in {seen}); needed is a "
            "face from the front, a seventh of the picture high"
        )
    return faces


def _constant(boxes: Sequence[Sequence[Face]]) -> list[Face]:
    """The faces that stay: each the median of the boxes that overlap it, in at least `LEAST_SHARE` of the pictures."""
    left = [(number, face) for number, group in enumerate(boxes) for face in group]
    faces: list[Face] = []
    while left:
        near = [[other for other in left if face.overlap(other[1]) > OVERLAP] for _, face in left]
        most = max(near, key=lambda group: len({number for number, _ in group}))
        if len({number for number, _ in most}) < LEAST_SHARE * len(boxes):
            break
        faces.append(Face(*(median(values) for values in zip(*(face for _, face in most), strict=True))))
        left = [one for one in left if one not in most]
    return faces


def detect(picture: np.ndarray) -> list[Face]:
    """The faces in one picture, uint8 [H,W,3]."""
    package, feature = import_module("skimage"), import_module("skimage.feature")  # here: the rest does without
    height, width = picture.shape[:2]
    scale = SEARCHED_SIDE / min(height, width)
    small = Image.fromarray(picture).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    cascade = feature.Cascade(str(Path(str(package.__file__)).with_name("data") / CASCADE))
    boxes = cascade.detect_multi_scale(
        img=np.array(small), scale_factor=1.2, step_ratio=1, min_size=(LEAST_SIDE, LEAST_SIDE),
        max_size=(SEARCHED_SIDE, SEARCHED_SIDE), min_neighbor_number=2,
    )  # fmt: skip
    return [Face(box["c"] / scale, box["r"] / scale, box["width"] / scale, box["height"] / scale) for box in boxes]
