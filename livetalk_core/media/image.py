"""Portraits: any still image in, a bounded RGB image and the model's reference frame out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import InputError

MIN_SHORT_SIDE = 64
MAX_LONG_SIDE = 8192
# No vector or document formats: Pillow hands PostScript to another program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# A phone's JPEG with a second picture (depth, gain map) behind the first: still a still.
STILL_FORMATS = ("MPO",)
BACKGROUND = "white"


def load_image(path: Path | str) -> Image.Image:
    """Read a still image as 8-bit RGB: turned as its EXIF says, transparency laid on white.

    `InputError` for what is no image, is damaged or animated, has a short side under 64 px or a long side over
    8192 px; the size is checked before anything is decoded.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"image {path} {found}; an image file is needed: check the path")
    with _readable(path), Image.open(path, formats=_formats()) as image:
        check_bounds(image.width, image.height, path.name)
        _check_still(image, path.name)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), path.name)


def check_bounds(width: int, height: int, name: str = "image") -> None:
    """Raise `InputError` unless 64 px <= short side and long side <= 8192 px."""
    if min(width, height) < MIN_SHORT_SIDE:
        raise InputError(
            f"{name} is {width}x{height} px; at least {MIN_SHORT_SIDE} px on the short side are needed: "
            "choose a larger image"
        )
    if max(width, height) > MAX_LONG_SIDE:
        raise InputError(
            f"{name} is {width}x{height} px; at most {MAX_LONG_SIDE} px on the long side are read: scale it down first"
        )


def to_reference(image: Image.Image | np.ndarray, height: int, width: int) -> Tensor:
    """The portrait as the model's reference frame: [1, 3, 1, height, width] float32 in -1..1.

    `image` is RGB, or uint8 [H, W, 3]. As the reference implementation does: resized bilinearly (Pillow's
    antialiased filter) by the larger of both scales, sides rounded up, then cropped from the centre.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    scale = max(height / image.height, width / image.width)
    resized = image.resize((math.ceil(scale * image.width), math.ceil(scale * image.height)), Image.Resampling.BILINEAR)
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)), np.float32)
    frame = (torch.from_numpy(pixels) / 255 - 0.5) * 2
    return frame.permute(2, 0, 1)[None, :, None].contiguous()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Pillow's many ways to fail, as `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {path} is too large ({error}); at most {MAX_LONG_SIDE} px on the long side are read: "
            "scale it down first"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:  # the last: AVIF
        raise InputError(
            f"image {path} cannot be read ({error}); a whole PNG, JPEG, WebP or similar still image is needed: "
            "open it in an image editor and save it again"
        ) from error


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_still(image: Image.Image, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in STILL_FORMATS:
        raise InputError(f"{name} holds {frames} pictures; a still image is needed: save one of them on its own")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InputError(f"{name} has floating-point pixels; 8 or 16 bits a channel are needed: save it as PNG")
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts off where it should scale
        values = np.asarray(image).astype(np.float32).clip(0, 65535)
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image).convert("RGB")
    return image.convert("RGB")
