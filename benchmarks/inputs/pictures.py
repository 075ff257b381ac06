"""Portraits of every kind, made with Pillow from the demo's, and how far what is read is from it."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from livetalk_core.errors import InputError
from livetalk_core.media.crop import Crop, cut_away, shown_part
from livetalk_core.media.image import load_image
from tests.media.profiles import SPACES, cmyk_profile, grey_profile, in_space, press, rgb_profile

from . import odd_pictures, rare_pictures
from .hearing import ROOT, Row
from .making import ORIENTATION, TURNS, Made, saved

MOST_ERROR = 1.5
"""Of 255, on average over all pixels."""
FRAME = (128, 128)
HEAD = 1 / 6
"""The part of `fullbody.jpg`, from above, that its head is in."""


def portrait() -> Image.Image:
    """The demo's."""
    return Image.open(ROOT / "demo" / "portrait.png").convert("RGB").resize((256, 256))


def formats(truth: Image.Image) -> Iterator[Made]:
    """Each file format."""
    fine = {"quality": 97, "subsampling": 0}
    for name, options in (
        ("png", {}), ("jpg", fine), ("webp", {"lossless": True}), ("webp", {"quality": 97}), ("bmp", {}), ("tga", {}),
        ("ppm", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("tif", {"compression": "tiff_adobe_deflate"}),
        ("jp2", {}), ("avif", {"quality": 97, "subsampling": "4:4:4"}), ("heic", {"quality": 97, "chroma": 444}),
        ("jpg", {"progressive": True, **fine}),
    ):  # fmt: skip
        words = ", ".join(f"{key} {value}" for key, value in options.items() if key not in ("quality", "subsampling"))
        yield f"{name.upper()} {words}".strip(), f"a.{name}", saved(truth, f"a.{name}", **options), truth
    yield "WebP named .png", "a.png", saved(truth, "a.webp", lossless=True), truth
    yield (
        "JPEG with a second picture (MPO)",
        "a.jpg",
        saved(truth, "a.mpo", save_all=True, append_images=[truth.resize((64, 64))], quality=97, subsampling=0),
        truth,
    )


def modes(truth: Image.Image) -> Iterator[Made]:
    """Each kind of pixel."""
    grey, clear = truth.convert("L"), truth.convert("RGBA")
    greys = grey.convert("RGB")
    deep = np.asarray(truth).astype(np.uint16) * 257
    yield "PNG, grey", "a.png", saved(grey, "a.png"), greys
    yield "PNG, grey and alpha", "a.png", saved(grey.convert("LA"), "a.png"), greys
    yield "PNG, alpha", "a.png", saved(clear, "a.png"), truth
    half = clear.copy()
    half.putalpha(128)
    white = Image.blend(Image.new("RGB", truth.size, "white"), truth, 128 / 255)
    yield "PNG, half transparent: on white", "a.png", saved(half, "a.png"), white
    palette = truth.quantize(256)
    yield "PNG, palette", "a.png", saved(palette, "a.png"), palette.convert("RGB")
    yield "GIF", "a.gif", saved(palette, "a.gif"), palette.convert("RGB")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "PNG, grey of 16 bits", "a.png", saved(wide, "a.png"), greys
    yield "JPEG, grey", "a.jpg", saved(grey, "a.jpg", quality=97), greys
    for kind, pixels in (
        ("16 bits", deep), ("16 bits, big endian", deep.astype(">u2")), ("floating point grey", np.asarray(grey) / 255),
        ("32-bit grey", np.asarray(grey).astype(np.uint32) * 0x0101_0101),
        ("signed 16-bit grey", (np.asarray(grey).astype(np.int32) * 257 - 32768).astype(np.int16)),
    ):  # fmt: skip
        yield f"TIFF, {kind}", "a.tif", _tiff(pixels), truth if pixels.ndim == 3 else greys


def _tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    pixels = pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    tifffile.imwrite(file, pixels, byteorder=order, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return file.getvalue()


def colours(truth: Image.Image) -> Iterator[Made]:
    """Each colour space, with its profile."""
    for space in SPACES:
        profile = rgb_profile(space)
        for name in ("png", "tif", "jpg"):
            options: dict[str, Any] = {"quality": 98, "subsampling": 0} if name == "jpg" else {}
            content = saved(in_space(truth, space), f"a.{name}", icc_profile=profile, **options)
            yield f"{name.upper()} in {space}", f"a.{name}", content, truth
    gamma = Image.fromarray(((np.asarray(truth.convert("L")) / 255) ** (2.2 / 1.8) * 255).round().astype(np.uint8))
    back = ((np.asarray(gamma) / 255) ** 1.8 * 1.0).clip(0, 1)
    srgb = np.where(back <= 0.0031308, back * 12.92, 1.055 * back ** (1 / 2.4) - 0.055)
    grey = Image.fromarray((srgb * 255).round().astype(np.uint8)).convert("RGB")
    yield "PNG, grey, gamma 1.8", "a.png", saved(gamma, "a.png", icc_profile=grey_profile(1.8)), grey
    inks = np.concatenate([255 - np.asarray(truth), np.full((*truth.size[::-1], 1), 20, np.uint8)], -1)
    printed = Image.fromarray((press(inks / 255) * 255).round().astype(np.uint8))
    cmyk = Image.frombytes("CMYK", truth.size, inks.tobytes())
    content = saved(cmyk, "a.tif", icc_profile=cmyk_profile())
    yield "TIFF in CMYK, with its press's profile", "a.tif", content, printed
    content = saved(cmyk, "a.jpg", quality=98, icc_profile=cmyk_profile())
    yield "JPEG in CMYK, with its press's profile", "a.jpg", content, printed
    yield "JPEG in CMYK, no profile", "a.jpg", saved(truth.convert("CMYK"), "a.jpg", quality=98), truth
    yield "PNG with a useless profile", "a.png", saved(truth, "a.png", icc_profile=b"nonsense"), truth


def orientations(truth: Image.Image) -> Iterator[Made]:
    """Each way that a telephone may be held."""
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for name in ("png", "jpg"):
            options: dict[str, Any] = {"quality": 97, "subsampling": 0} if name == "jpg" else {}
            content = saved(truth.transpose(turn), f"a.{name}", exif=exif, **options)
            yield f"{name.upper()}, EXIF orientation {orientation}", f"a.{name}", content, truth


def refusals(truth: Image.Image) -> Iterator[Made]:
    """What is no portrait."""
    png = saved(truth, "a.png")
    for name in ("gif", "webp", "png", "tif"):
        content = saved(truth, f"a.{name}", save_all=True, append_images=[truth.rotate(9)])
        yield f"animated or many-paged {name.upper()}", f"a.{name}", content, "holds 2 pictures"
    yield "PNG cut off", "a.png", png[: len(png) // 2], "cannot be read"
    yield "JPEG cut off", "a.jpg", saved(truth, "a.jpg")[:-2000], "cannot be read"
    yield "63 pixels", "a.png", saved(truth.resize((63, 63)), "a.png"), "at least 64 px"
    for kind, name, content, words in (
        ("SVG", "a.svg", b"<svg width='9' height='9'/>", "SVG"), ("PDF", "a.pdf", b"%PDF-1.7", "document"),
        ("web page", "a.jpg", b"<!doctype html>", "a web page"), ("Photoshop", "a.psd", b"8BPS\0\1", "Photoshop"),
        ("nothing", "a.png", b"", "cannot be read"),
    ):  # fmt: skip
        yield kind, name, content, words


GROUPS = {
    "File formats": formats, "Pixels": modes, "Colours": colours, "Orientation": orientations, "Refused": refusals,
    **rare_pictures.GROUPS, **odd_pictures.GROUPS,
}  # fmt: skip


def seen(made: Made) -> Row:
    """Try one picture."""
    kind, name, content, truth = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            image = load_image(path)
        except InputError as error:
            right = isinstance(truth, str) and truth in str(error)
            return Row(kind, str(error).replace(f"{folder}/", ""), right, "" if right else "refused, or otherwise")
    if isinstance(truth, str):
        return Row(kind, f"{image.width}x{image.height}", False, "it should be refused")
    if image.size != truth.size:
        return Row(kind, f"{image.width}x{image.height}", False, "of another size")
    error = float(np.abs(np.asarray(image, np.float32) - np.asarray(truth, np.float32)).mean())
    return Row(kind, f"{error:.2f} of 255", error < MOST_ERROR, "" if error < MOST_ERROR else "other colours")


def try_pictures() -> dict[str, list[Row]]:
    """All kinds."""
    truth = portrait()
    return {group: [seen(made) for made in make(truth)] for group, make in GROUPS.items()}


def try_crops() -> list[Row]:
    """A picture from head to foot: whether its head is in the frame."""
    image = load_image(ROOT / "tests" / "media" / "pictures" / "fullbody.jpg")
    head = round(HEAD * image.height)
    rows = []
    for words in ("center", "top"):
        part = shown_part(image.size, *FRAME, Crop.parse(words))
        kept = max(0, min(head, part.bottom) - part.top) / head
        cut = cut_away(image.size, *FRAME, Crop.parse(words))
        rows.append(Row(f"--crop {words}", f"{kept:.0%} of the head; {cut}", words == "center" or kept == 1))
    return rows
