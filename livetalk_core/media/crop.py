"""Which part of a portrait a video shows: where it is cut, how much is lost, and what shape would lose nothing."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from PIL import Image

from ..errors import InputError
from ..shapes import WAN, Geometry

CUT_WORTH_A_WORD = 0.2
"""Share of a portrait that may be cut away in silence."""
MAX_SCALED_PIXELS = 2**26
"""A picture that would have more when it covers the frame is cut first: it is far longer than the frame."""
MIN_SIDE = 64
AREA_WEIGHT = 0.5
"""How much a smaller area weighs against another shape, where `shape_of` cannot keep both."""


class Box(NamedTuple):
    """A rectangle in a picture's pixels; `right` and `bottom` are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Crop:
    """What is kept of a portrait of another shape than the frame: its centre, its `top`, or the same of a `box`."""

    top: bool = False
    box: Box | None = None

    @classmethod
    def parse(cls, text: str) -> "Crop":
        """`center`, `top`, or `X,Y,W,H` in pixels; an `InputError` for anything else."""
        if text in ("center", "top"):
            return cls(top=text == "top")
        numbers = re.fullmatch(r"(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", text.replace(" ", ""))
        if numbers is None:
            raise InputError(f"crop {text!r}; needed is top, center, or X,Y,W,H in pixels, such as 100,0,800,800")
        left, top, width, height = map(int, numbers.groups())
        return cls(box=Box(left, top, left + width, top + height))

    def area(self, width: int, height: int) -> Box:
        """The part of a picture that is kept before its shape is looked at; an `InputError` where `box` leaves it."""
        if self.box is None:
            return Box(0, 0, width, height)
        if self.box.right > width or self.box.bottom > height or min(self.box.width, self.box.height) < MIN_SIDE:
            x, y, right, bottom = self.box
            raise InputError(
                f"crop {x},{y},{right - x},{bottom - y} of a picture of {width}x{height} px; needed is a part of it, "
                f"at least {MIN_SIDE} px wide and high: give other numbers"
            )
        return self.box


CENTER = Crop()


def cover(image: Image.Image, height: int, width: int, crop: Crop = CENTER) -> Image.Image:
    """The part of an image that `crop` names, scaled to cover `width` x `height` px and cut to it.

    As the reference implementation does: resized bilinearly (Pillow's antialiased filter) by the larger of both
    scales, sides rounded up, then cropped from the centre (with `crop.top`, from the top).
    """
    image = _shortened(image.crop(crop.area(*image.size)) if crop.box else image, height, width, crop)
    scaled_width, scaled_height = _scaled(image.width, image.height, height, width)
    left, top = _offset(scaled_width, scaled_height, height, width, crop)
    resized = image.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


def shown_part(size: tuple[int, int], height: int, width: int, crop: Crop = CENTER) -> Box:
    """What a frame shows of a picture of `size` (width, height), in the picture's pixels."""
    area = crop.area(*size)
    scaled = _scaled(area.width, area.height, height, width)
    left, top = _offset(*scaled, height, width, crop)
    across, down = area.width / scaled[0], area.height / scaled[1]
    return Box(
        area.left + round(left * across), area.top + round(top * down),
        area.left + round((left + width) * across), area.top + round((top + height) * down),
    )  # fmt: skip


def cut_away(size: tuple[int, int], height: int, width: int, crop: Crop = CENTER) -> str | None:
    """In words, what a frame leaves out of a picture of `size` (width, height); None where it is little.

    A `box` is what the user wants: only what is cut from within it counts.
    """
    area, part = crop.area(*size), shown_part(size, height, width, crop)
    kept = part.width * part.height / (area.width * area.height)
    if kept >= 1 - CUT_WORTH_A_WORD:
        return None
    sides = {
        "top": (part.top - area.top) / area.height, "bottom": (area.bottom - part.bottom) / area.height,
        "left": (part.left - area.left) / area.width, "right": (area.right - part.right) / area.width,
    }  # fmt: skip
    cuts = ", ".join(f"{share:.0%} at the {side}" for side, share in sides.items() if share >= 0.005)
    return f"{kept:.0%} of the picture is shown; cut away: {cuts}"


def shape_of(
    size: tuple[int, int], height: int, width: int, crop: Crop = CENTER, geometry: Geometry = WAN
) -> tuple[int, int]:
    """(height, width) in the shape of a picture of `size` (width, height), with about the area of `height` x `width`.

    Both are multiples of what `geometry` asks for, at least 64, their area is no larger, and of all such the nearest.
    """
    area = crop.area(*size)
    aspect, most = area.height / area.width, max(height * width, MIN_SIDE**2)

    def distance(sides: tuple[int, int]) -> float:
        high, wide = sides
        return abs(math.log(high / wide / aspect)) + AREA_WEIGHT * math.log(most / (high * wide))

    return min(_sizes(most, geometry.size_multiple), key=distance)


def _sizes(most: int, multiple: int) -> Iterator[tuple[int, int]]:
    sides = range(MIN_SIDE, max(most // MIN_SIDE, MIN_SIDE) + 1, multiple)
    return ((high, wide) for high, wide in product(sides, sides) if high * wide <= most)


def _scaled(width: int, height: int, frame_height: int, frame_width: int) -> tuple[int, int]:
    """Width and height of a picture that covers the frame."""
    scale = max(frame_height / height, frame_width / width)
    return math.ceil(scale * width), math.ceil(scale * height)


def _offset(scaled_width: int, scaled_height: int, height: int, width: int, crop: Crop) -> tuple[int, int]:
    """Left and top of the frame in the scaled picture."""
    return round((scaled_width - width) / 2), 0 if crop.top else round((scaled_height - height) / 2)


def _shortened(image: Image.Image, height: int, width: int, crop: Crop) -> Image.Image:
    """The image, or of one that is far longer than the frame, a part that holds all that is shown and some more."""
    scaled_width, scaled_height = _scaled(image.width, image.height, height, width)
    if scaled_width * scaled_height <= MAX_SCALED_PIXELS:
        return image
    part = shown_part(image.size, height, width, Crop(top=crop.top))
    across, down = (part.width, 0) if image.width > image.height else (0, part.height)
    left, right = _around(part.left, part.right, across, image.width)
    top, bottom = _around(part.top, part.bottom, down, image.height)
    return image.crop((left, top, right, bottom))


def _around(start: int, stop: int, more: int, length: int) -> tuple[int, int]:
    """From `more` before `start` to `more` after `stop`, within 0 to `length`, at least a pixel."""
    first = max(0, min(start - more, length - 1))
    return first, min(length, max(stop + more, first + 1))
