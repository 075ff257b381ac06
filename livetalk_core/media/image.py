"""Portraits: any still image in, a bounded RGB image and the model's reference frame out."""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from ..errors import InputError
from ..files import check_readable
from .color_tags import profile_of
from .crop import CENTER, Crop, cover
from .srgb import to_srgb
from .whole_picture import check_filled, with_end

MIN_SHORT_SIDE = 64
MAX_LONG_SIDE = 8192
MAX_PIXELS = MAX_LONG_SIDE**2
"""The most that is decoded of a picture at its full size."""
MORE_PIXELS = {"JPEG": 210_000_000, "MPO": 210_000_000, "PNG": 2 * MAX_PIXELS}
"""Formats that need less memory for a pixel: JPEG is scaled down while it is decoded, PNG is read row by row."""
PROGRESSIVE_PIXELS = 2 * MAX_PIXELS
"""Of a progressive JPEG: all its coefficients are in memory before the first row is."""
DRAFT = 2
"""By what a large JPEG is scaled down while it is decoded."""
MAX_TEXT_BYTES = 64 * 2**20
"""Of a PNG's texts and profile, unpacked: a workflow or an editor's history may lie there."""

# No vector or document formats: Pillow hands PostScript to another program.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl", "AVIF": "pillow_avif"}
"""Packages that teach Pillow a format, where they are installed."""
# A phone's picture with others (depth, gain map) behind the first: still a still.
STILL_FORMATS = ("HEIF", "MPO")
BITS_PER_SAMPLE, PLANES, SEPARATE = 258, 284, 2
"""TIFF's tags for the depth and the order of colours, and the order that is plane by plane."""
SUBFILE_TYPE, REDUCED = 254, 1
"""TIFF's tag and its bit for a page that is a preview of another one."""
ORIENTATION = 0x0112

SAVE = "save it as PNG or JPEG"
OPEN_AND_SAVE = f"open it in an image editor and {SAVE}"


class Signature(NamedTuple):
    """How files of a kind begin, what they are, and what to do with them; `format` is Pillow's name of it, if any."""

    start: bytes
    what: str
    remedy: str = SAVE
    format: str = ""


SIGNATURES = (
    Signature(rb".{4}ftyp(?:hei[cmsx]|hev[cmx]|mif1|msf1)", "HEIC", f"`pip install pillow-heif`, or {SAVE}", "HEIF"),
    Signature(rb".{4}ftypavi[fs]", "AVIF", f"`pip install pillow-avif-plugin`, or {SAVE}", "AVIF"),
    Signature(rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", f"`pip install pillow-jxl-plugin`, or {SAVE}", "JXL"),
    Signature(
        rb"II\*\0.{4}CR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIRO", "a camera's raw picture", f"develop it and {SAVE}"
    ),
    Signature(rb"\s*<(?:!doctype html|html|head)", "a web page", "download the picture itself"),
    Signature(rb"(?:\xef\xbb\xbf)?\s*(?:<[!?].{0,900})?<svg", "SVG, which has no pixels"),
    Signature(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive", "unpack it, or save its picture as PNG or JPEG"),
    Signature(rb"8BPS", "a Photoshop file"),
    Signature(rb"\x76\x2f\x31\x01", "OpenEXR"),
    Signature(rb"%PDF|%!PS", "a document"),
    Signature(rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video", "save one of its pictures as PNG or JPEG"),
    Signature(rb"RIFF.{4}WAVE|ID3|OggS|fLaC|FORM.{4}AIF", "a sound", "choose a picture"),
    Signature(rb"version https://git-lfs", "a git-LFS pointer", "run `git lfs pull`"),
    Signature(  # but for the formats whose numbers are text
        rb"(?!P[1-7]\s)(?:\xef\xbb\xbf)?[\t\n\r -~]{1,1024}$|\xff\xfe|\xfe\xff", "a text file", "get the picture itself"
    ),
)
_pillow_limits = Lock()


def load_image(path: Path | str) -> Image.Image:
    """Read a still image as 8-bit sRGB: turned as its EXIF says, transparency laid on white.

    One of more than 67 megapixels is scaled down on the way.
    `InputError` for what is no image, is damaged or animated, has a short side under 64 px, or more pixels than
    `MAX_PIXELS` and `MORE_PIXELS` say; the size is checked before anything is decoded.
    """
    path = Path(path)
    check_readable(path, "image", "an image file", InputError)
    with _readable(path), _limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, of damage that changes no pixel
        try:
            return _loaded(path, path)
        except OSError:
            content = with_end(path)
            if content is None:
                raise
            return _loaded(BytesIO(content), path)


def _loaded(file: Path | BytesIO, path: Path) -> Image.Image:
    with Image.open(file, formats=_formats()) as image:
        factor = _factor(image, path.name)
        _check_still(image, path.name)
        _check_planes(image, path.name)
        image.load()
        check_filled(path, image.format)
        flat = to_srgb(image, path.name, profile_of(image, path), factor)
        return _turned(flat, image.getexif().get(ORIENTATION))


def check_bounds(width: int, height: int, name: str = "image") -> None:
    """Raise `InputError` unless 64 px <= short side and long side <= 8192 px."""
    _check_short_side(width, height, name)
    if max(width, height) > MAX_LONG_SIDE:
        raise InputError(
            f"{name} is {width}x{height} px; at most {MAX_LONG_SIDE} px on the long side are read: scale it down first"
        )


def _check_short_side(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SHORT_SIDE:
        raise InputError(
            f"{name} is {width}x{height} px; at least {MIN_SHORT_SIDE} px on the short side are needed: "
            "choose a larger image"
        )


def to_reference(image: Image.Image | np.ndarray, height: int, width: int, crop: Crop = CENTER) -> Tensor:
    """The portrait as the model's reference frame: [1, 3, 1, height, width] float32 in -1..1.

    `image` is RGB, or uint8 [H, W, 3]. See `cover` for how it is scaled and cut.
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    pixels = np.asarray(cover(image, height, width, crop), np.float32)
    frame = (torch.from_numpy(pixels) / 255 - 0.5) * 2
    return frame.permute(2, 0, 1)[None, :, None].contiguous()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Pillow's many ways to fail, as `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a decoder fed with damage may raise anything
        kind = _signature(path)
        fault, remedy = (
            (f"is {kind.what}", kind.remedy) if kind else (f"cannot be read ({_reason(error, path)})", OPEN_AND_SAVE)
        )
        raise InputError(
            f"image {path.name} {fault}; a whole PNG, JPEG, WebP or similar still image is needed: {remedy}"
        ) from error


def _signature(path: Path) -> Signature | None:
    """What a file is by its beginning; None for a kind that is read here."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:
        return None
    kind = next((kind for kind in SIGNATURES if re.match(kind.start, start, re.IGNORECASE | re.DOTALL)), None)
    return None if kind is None or kind.format in Image.OPEN else kind


def _reason(error: Exception, path: Path) -> str:
    return (str(error).strip() or type(error).__name__).replace(f" {str(path)!r}", "").partition("\n")[0]


@contextmanager
def _limits() -> Iterator[None]:
    """Pillow's own limits out of the way: they are of the whole process, and `MAX_PIXELS` is checked here.

    Its limit of a text's length stays one, at a size that real files keep.
    """
    with _pillow_limits:
        before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, MAX_TEXT_BYTES
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow reads, by itself or with a plugin that is installed."""
    Image.init()
    for name, package in PLUGINS.items():
        if name not in Image.OPEN:
            _register(package)
    return [name for name in FORMATS if name in Image.OPEN]


def _register(package: str) -> None:
    try:
        plugin: Any = import_module(package)
    except ImportError:
        return
    if hasattr(plugin, "register_heif_opener"):  # the others register as they are imported
        plugin.register_heif_opener()


def _factor(image: Image.Image, name: str) -> int:
    """By what to scale down after decoding; a JPEG comes out smaller. `InputError` for too large a picture."""
    pixels, most = image.width * image.height, MORE_PIXELS.get(image.format or "", MAX_PIXELS)
    most = min(most, PROGRESSIVE_PIXELS) if image.info.get("progressive") else most
    if pixels > most:
        raise InputError(
            f"{name} is {image.width}x{image.height} px; at most {most // 10**6} megapixels of {image.format} are "
            "read: scale it down first"
        )
    _check_short_side(image.width, image.height, name)
    if pixels > MAX_PIXELS and image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // DRAFT, image.height // DRAFT))
    return math.ceil((image.width * image.height / MAX_PIXELS) ** 0.5)


def _check_still(image: Any, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in STILL_FORMATS and not _has_previews_alone(image):
        raise InputError(f"{name} holds {frames} pictures; a still image is needed: save one of them on its own")
    if image.format == "TIFF" and image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED:
        raise InputError(
            f"{name} is a camera's raw picture (DNG, NEF or like them), of which only a preview of {image.width}x"
            f"{image.height} px could be shown; a finished picture is needed: develop it and {SAVE}"
        )


def _check_planes(image: Any, name: str) -> None:
    """Pillow takes a TIFF's planes for bytes."""
    if image.format != "TIFF" or image.tag_v2.get(PLANES) != SEPARATE:
        return
    bits = np.ravel(image.tag_v2.get(BITS_PER_SAMPLE, 8))
    if len(bits) > 1 and bits.max() > 8:
        raise InputError(
            f"{name} is a TIFF whose colours lie in planes of {bits.max()} bits, which are not read; interleaved ones "
            f"are needed: {OPEN_AND_SAVE}"
        )


def _has_previews_alone(image: Any) -> bool:
    """Whether all pages of a TIFF but the first show the first one smaller."""
    if image.format != "TIFF":
        return False
    pages = range(1, image.n_frames)
    smaller = [image.seek(page) or image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED for page in pages]
    image.seek(0)
    return all(smaller)


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    """An image upright, by the orientation that EXIF gives."""
    if orientation is not None:
        image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)
