"""Pixels of every kind as 8-bit sRGB: other depths, colour profiles, transparency laid on white."""

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..errors import InputError

logger = logging.getLogger(__name__)

BACKGROUND = "white"
BAND = 512
"""Rows that are converted at a time: a large picture and its result are in memory, and nothing of their size beside."""
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
BLACK_POINT_COMPENSATION: Any = 0x2000
"""littlecms' flag: Pillow has a name for it from 10.3 on."""
SAME_COLORS = 2
"""A profile that moves no colour by more than this (of 255) is sRGB's, and the pixels stay as they are."""

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF's tags."""
WHITE_IS_ZERO = 0
UNSIGNED, SIGNED, FLOATING = 1, 2, 3
"""TIFF's formats of a sample."""

BYTE, SHORT = (0, 2**8 - 1), (0, 2**16 - 1)
RANGES: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (UNSIGNED, 32): (BYTE, SHORT, (0, 2**32 - 1)),
    (SIGNED, 8): ((0, 2**7 - 1), (-(2**7), 2**7 - 1)),
    (SIGNED, 16): (BYTE, (0, 2**15 - 1), (-(2**15), 2**15 - 1)),
    (SIGNED, 32): (BYTE, SHORT, (0, 2**31 - 1), (-(2**15), 2**15 - 1), (-(2**31), 2**31 - 1)),
}
"""Black and white by a sample's format and bits: the first pair that holds all values; all bits for any other kind.

Files do not say: whole numbers wider than they need to be are usual where programs save their arrays.
"""
FLOAT_WHITES = (1, 255, 65535)
"""What white may be in floating-point pixels; black is 0."""
OVERSHOOT = 0.25
"""By how much of their range floating-point pixels may leave it: a sharpened picture does."""


class Samples:
    """How a picture's greys, where they are no bytes, become bytes."""

    def __init__(self, image: Image.Image, name: str) -> None:
        tags: Any = getattr(image, "tag_v2", {})
        floating = image.mode == "F"
        self._format = FLOATING if floating else int(np.ravel(tags.get(SAMPLE_FORMAT, UNSIGNED))[0])
        bits = int(np.ravel(tags.get(BITS_PER_SAMPLE, 16))[0])
        self._bits = 32 if floating else bits
        self._inverted = image.mode != "L" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
        self.black, self.white = self._range(image, name)

    @staticmethod
    def of(image: Image.Image, name: str) -> "Samples | None":
        """None where the pixels are bytes already."""
        tags: Any = getattr(image, "tag_v2", {})
        signed = image.mode == "L" and tags.get(SAMPLE_FORMAT) in (SIGNED, (SIGNED,))
        return Samples(image, name) if signed or image.mode == "F" or image.mode.startswith("I") else None

    def bytes(self, band: Image.Image) -> Image.Image:
        """A band of the picture, 0 for black to 255 for white."""
        values = self._values(band).astype(np.float64)
        values = (values - self.black) / ((self.white - self.black) / 255)
        grey = values.clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(255 - grey if self._inverted else grey)

    def _values(self, band: Image.Image) -> np.ndarray:
        """The numbers as the file has them: Pillow knows no unsigned 32 bits and no signed 8."""
        values = np.asarray(band)
        if self._format == UNSIGNED and self._bits == 32:
            return values.view(np.uint32)
        return values.view(np.int8) if values.dtype == np.uint8 else values

    def _range(self, image: Image.Image, name: str) -> tuple[int, int]:
        extremes = [(values.min(), values.max()) for values in map(self._values, bands(image))]
        low, high = float(np.min(extremes)), float(np.max(extremes))
        if self._format == FLOATING:
            return _range_of_floats(low, high, name)
        ranges = RANGES.get((self._format, self._bits), ((0, 2**self._bits - 1),))
        return next((pair for pair in ranges if pair[0] <= low and high <= pair[1]), SHORT)


def _range_of_floats(low: float, high: float, name: str) -> tuple[int, int]:
    white = next((white for white in FLOAT_WHITES if high <= (1 + OVERSHOOT) * white), None)
    if white is not None and low >= -OVERSHOOT * white:
        return 0, white
    raise InputError(
        f"{name} has floating-point pixels from {low:g} to {high:g}; numbers from 0 to 1 are needed, all finite: "
        "save it as PNG"
    )


def bands(image: Image.Image) -> Iterator[Image.Image]:
    """A picture in pieces of `BAND` rows, the last one shorter."""
    for top in range(0, image.height, BAND):
        yield image.crop((0, top, image.width, min(top + BAND, image.height)))


def to_srgb(image: Image.Image, name: str, profile: bytes | None = None, factor: int = 1) -> Image.Image:
    """A picture of any of Pillow's modes as RGB in sRGB, its sides divided by `factor`.

    A `profile` that is damaged or of other colours is left aside, with a warning. `InputError` for floating-point
    pixels without a known range.
    """
    samples = Samples.of(image, name)
    opaque = not _has_alpha(image) or _is_hidden(image, name)
    colors = _color_mode(image, samples)
    transform = _transform(profile, colors, name) if profile else None
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for index, band in enumerate(bands(image)):
        flat = _flat(samples.bytes(band) if samples else band, colors, transform, opaque)
        result.paste(flat.reduce(factor) if factor > 1 else flat, (0, index * BAND // factor))
    return result


def _color_mode(image: Image.Image, samples: Samples | None) -> str:
    """The mode that the picture's profile speaks of."""
    if samples or image.mode in ("1", "L", "LA", "La"):
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"


def _transform(profile: bytes, mode: str, name: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB; None where they are the same, or where the profile is of no use."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", intent, BLACK_POINT_COMPENSATION)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        logger.warning("%s: its colour profile cannot be used (%s); its colours are taken as sRGB", name, error)
        return None
    return None if _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(colors).convert(mode)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    moved = np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))
    return bool(np.abs(moved).max() <= SAME_COLORS)


def _has_alpha(image: Image.Image) -> bool:
    return bool({"A", "a"} & set(image.getbands())) or "transparency" in image.info


def _is_hidden(image: Image.Image, name: str) -> bool:
    """Whether all of it is transparent: some programs write an alpha of 0 and mean nothing by it."""
    if any(_straight(band).convert("RGBA").getchannel("A").getextrema() != (0, 0) for band in bands(image)):
        return False
    logger.warning("%s: all of it is transparent; it is shown as if nothing were", name)
    return True


def _straight(band: Image.Image) -> Image.Image:
    """Without its alpha in its colours."""
    return band.convert(PREMULTIPLIED[band.mode]) if band.mode in PREMULTIPLIED else band


def _flat(band: Image.Image, colors: str, transform: ImageCms.ImageCmsTransform | None, opaque: bool) -> Image.Image:
    """A band as opaque RGB in sRGB."""
    band = _straight(band)
    if opaque:
        return _converted(band, colors, transform)
    rgba = band.convert("RGBA")
    if transform is not None:
        alpha = rgba.getchannel("A")
        rgba = _converted(rgba.convert("RGB"), colors, transform)
        rgba.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba).convert("RGB")


def _converted(band: Image.Image, colors: str, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    if transform is None:
        return band.convert("RGB")
    result = ImageCms.applyTransform(band if band.mode == colors else band.convert(colors), transform)
    assert result is not None  # it is None in place alone
    return result
