"""Portraits that few programs write: colours by numbers, layouts of pixels, files that hold none; see `pictures`."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.media.profiles import grey_profile, in_space, linear, rgb_profile

from .making import ORIENTATION, TURNS, Made, saved

Chunk = tuple[bytes, bytes]
FINE = {"quality": 97, "subsampling": 0}
P3_CORNERS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""Linear sRGB in the primaries of BT.2020 (ITU-R BT.2087)."""
OPEN_EXR = b"\x76\x2f\x31\x01\2\0\0\0"
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column and row, and the steps."""


def png(levels: np.ndarray, *chunks: Chunk, bits: int = 16, kind: int = 2, interlaced: bool = False) -> bytes:
    """A PNG of numbers 0..1 [H,W,C], with chunks before the pixels."""
    numbers = (levels * (2**bits - 1)).round().astype(">u2" if bits == 16 else "u1")
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [numbers[top::down, left::across] for left, top, across, down in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part)
    head = struct.pack(">IIBBBBB", levels.shape[1], len(levels), bits, kind, 0, 0, int(interlaced))
    every = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in every
    )


def gamma(value: float) -> Chunk:
    """PNG's number for the curve."""
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def codes(primaries: int, transfer: int) -> Chunk:
    """Code points of H.273 in a PNG."""
    return b"cICP", bytes([primaries, transfer, 0, 1])


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 of light whose diffuse white, 1, is 203 nits."""
    power = (light * 203 / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100 of light whose diffuse white, 1, is 203 of 1,000 nits."""
    scene = (light * 0.203) ** (1 / 1.2)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def colours(truth: Image.Image) -> Iterator[Made]:
    """Colours that files name by numbers, and profiles in rarer files."""
    pixels, wide = np.asarray(truth) / 255, in_space(truth, "display_p3")
    light, p3 = linear(pixels), np.asarray(wide) / 255
    for power in (1.0, 1 / 1.8):
        yield f"PNG, gAMA {power:.3g}", "a.png", png(light**power, gamma(power)), truth
    yield "PNG, sRGB beside gAMA 1", "a.png", png(pixels, (b"sRGB", b"\0"), gamma(1.0)), truth
    yield "PNG, gAMA 0.45455 alone", "a.png", png(pixels, gamma(0.45455)), truth
    corners = (b"cHRM", struct.pack(">8I", *P3_CORNERS))
    yield "PNG, Display P3 by cHRM", "a.png", png(p3, gamma(0.45455), corners), truth
    yield "PNG, Display P3 by cICP", "a.png", png(p3, codes(12, 13)), truth
    deep = (light @ TO_2020.T).clip(0, 1)
    yield "PNG, BT.2020 and PQ by cICP", "a.png", png(pq(deep), codes(9, 16)), truth
    yield "PNG, BT.2020 and HLG by cICP", "a.png", png(hlg(deep), codes(9, 18)), truth
    profile = (b"iCCP", b"p\0\0" + zlib.compress(rgb_profile("display_p3")))
    yield "PNG of 16 bits in display_p3", "a.png", png(p3, profile), truth
    avif = saved(wide, "a.avif", quality=97, subsampling="4:4:4")
    at = avif.index(b"colrnclx") + 8
    yield (
        "AVIF, Display P3 by its code points",
        "a.avif",
        avif[:at] + struct.pack(">HH", 12, 13) + avif[at + 4 :],
        truth,
    )
    named = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 1, "full_range_flag": 1}
    yield "HEIC, Display P3 by its code points", "a.heic", saved(wide, "a.heic", quality=97, chroma=444, **named), truth
    for name, options in (("webp", {"lossless": True}), ("heic", {"quality": 97, "chroma": 444})):
        content = saved(wide, f"a.{name}", icc_profile=rgb_profile("display_p3"), **options)
        yield f"{name.upper()} in display_p3", f"a.{name}", content, truth
    content = saved(truth, "a.jpg", icc_profile=grey_profile(2.2), **FINE)
    yield "JPEG with a profile of greys", "a.jpg", content, truth
    content = saved(truth, "a.jpg", icc_profile=rgb_profile("adobe_rgb")[:200], **FINE)
    yield "JPEG with a part of a profile", "a.jpg", content, truth


def layouts(truth: Image.Image) -> Iterator[Made]:
    """Layouts of pixels."""
    pixels, grey = np.asarray(truth), truth.convert("L")
    greys, palette = grey.convert("RGB"), truth.quantize(200)
    half = Image.blend(Image.new("RGB", truth.size, "white"), truth, 128 / 255)
    alpha = np.full((*truth.size[::-1], 1), 128, np.uint8)
    with_alpha = np.concatenate([pixels, alpha], -1)
    yield "PNG, interlaced", "a.png", png(pixels / 255, bits=8, interlaced=True), truth
    yield "PNG of 16 bits, interlaced", "a.png", png(pixels / 255, interlaced=True), truth
    yield "PNG of 16 bits with alpha", "a.png", png(with_alpha / 255, kind=6), half
    yield (
        "PNG, all transparent: its colours",
        "a.png",
        png(np.concatenate([pixels, 0 * alpha], -1) / 255, bits=8, kind=6),
        truth,
    )
    clear = np.where(np.asarray(palette)[..., None] == 199, 255, np.asarray(palette.convert("RGB"))).astype(np.uint8)
    content = saved(palette, "a.png", transparency=bytes([255] * 199 + [0]))
    yield "PNG, palette with alpha", "a.png", content, Image.fromarray(clear)
    black = grey.convert("1")
    yield "PNG, 1 bit", "a.png", saved(black, "a.png"), black.convert("RGB")
    yield "GIF, interlaced", "a.gif", saved(palette, "a.gif", interlace=1), palette.convert("RGB")
    for kind, options in (
        ("tiled", {"tile": (64, 64)}), ("tiled, deflated", {"tile": (64, 64), "compression": "zlib"}),
        ("with a predictor", {"compression": "zlib", "predictor": True}), ("of 64-bit offsets", {"bigtiff": True}),
    ):  # fmt: skip
        yield f"TIFF, {kind}", "a.tif", tiff(pixels, **options), truth
    planes = np.moveaxis(pixels, -1, 0).copy()
    yield "TIFF, plane by plane", "a.tif", tiff(planes, planarconfig="separate"), truth
    wide = planes.astype(np.uint16) * 257
    yield "TIFF, planes of 16 bits", "a.tif", tiff(wide, planarconfig="separate"), "planes of 16 bits"
    yield "TIFF with alpha", "a.tif", tiff(with_alpha, extrasamples=["unassalpha"]), half
    within = np.concatenate([(pixels * (128 / 255)).round().astype(np.uint8), alpha], -1)
    yield "TIFF, alpha in its colours", "a.tif", tiff(within, extrasamples=["assocalpha"]), half
    yield (
        "TIFF with two masks",
        "a.tif",
        tiff(np.concatenate([with_alpha, alpha], -1), extrasamples=["unspecified"] * 2),
        truth,
    )
    yield "TIFF, JPEG inside", "a.tif", saved(truth, "a.tif", compression="jpeg", quality=97), truth
    yield "TIFF, fax (G4)", "a.tif", saved(black, "a.tif", compression="group4"), black.convert("RGB")
    yield (
        "TIFF, white is 0",
        "a.tif",
        tiff(65535 - np.asarray(grey).astype(np.uint16) * 257, photometric="miniswhite"),
        greys,
    )
    yield "BMP with alpha", "a.bmp", bmp(with_alpha), half
    yield "BMP, alpha of 0 throughout", "a.bmp", bmp(np.concatenate([pixels, 0 * alpha], -1)), truth
    yield "BMP, palette", "a.bmp", saved(palette, "a.bmp"), palette.convert("RGB")
    yield "TGA, packed", "a.tga", saved(truth, "a.tga", compression="tga_rle"), truth
    yield "TGA with alpha", "a.tga", saved(Image.fromarray(with_alpha), "a.tga"), half
    yield (
        "PPM of 16 bits",
        "a.ppm",
        b"P6\n256 256\n65535\n" + (pixels.astype(">u2") * 257).astype(">u2").tobytes(),
        truth,
    )
    yield "PPM as text", "a.ppm", b"P3\n256 256\n255\n" + " ".join(map(str, pixels.ravel())).encode(), truth
    for name, options in (("jp2", {}), ("webp", {"quality": 97}), ("avif", {"quality": 97, "subsampling": "4:4:4"})):
        yield (
            f"{name.upper()} with alpha",
            f"a.{name}",
            saved(Image.fromarray(with_alpha), f"a.{name}", **options),
            half,
        )
    yield "JPEG, restart markers", "a.jpg", saved(truth, "a.jpg", restart_marker_rows=1, **FINE), truth
    yield "JPEG, RGB inside", "a.jpg", saved(truth, "a.jpg", quality=97, keep_rgb=True), truth
    yield (
        "JPEG with a video behind it",
        "a.jpg",
        saved(truth, "a.jpg", **FINE) + b"\0\0\0\x18ftypmp42" + bytes(99_999),
        truth,
    )
    yield "APNG of one picture", "a.png", saved(truth, "a.png", save_all=True), truth


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """By tifffile, which writes more kinds than Pillow."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric=options.pop("photometric", "rgb"), **options)
    return file.getvalue()


def bmp(pixels: np.ndarray) -> bytes:
    """A BMP of four channels of 8 bits, with a header of version 4."""
    height, width = pixels.shape[:2]
    body = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def orientations(truth: Image.Image) -> Iterator[Made]:
    """EXIF's orientation in other files than JPEG and PNG."""
    for name, options in (("webp", {"lossless": True}), ("tif", {}), ("avif", {"quality": 97, "subsampling": "4:4:4"})):
        for orientation in (3, 5, 6, 8):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            content = saved(truth.transpose(TURNS[orientation]), f"a.{name}", exif=exif, **options)
            yield f"{name.upper()}, EXIF orientation {orientation}", f"a.{name}", content, truth


def refusals(truth: Image.Image) -> Iterator[Made]:
    """Sizes beyond, and files that are no pictures."""
    for width, height in ((1, 1), (1, 20_000), (30_000, 2)):
        content = saved(Image.new("RGB", (width, height), "gray"), "a.png")
        yield f"PNG of {width}x{height} px", "a.png", content, "at least 64 px"
    content = saved(truth, "a.jpg", progressive=True)
    yield "JPEG, progressive, cut off", "a.jpg", content[: len(content) // 2], "cannot be read"
    yield "WebP cut off", "a.webp", saved(truth, "a.webp", quality=97)[:-3000], "cannot be read"
    for kind, name, content, words in (
        ("SVG behind a comment", "a.svg", b"<!-- Inkscape -->\n<svg/>", "is SVG"),
        ("sound", "a.png", b"RIFF\x24\0\0\0WAVEfmt ", "is a sound"), ("JSON", "a.png", b'{"no": 1}', "a text file"),
        ("archive", "a.png", b"PK\x03\x04" + bytes(99), "an archive"), ("OpenEXR", "a.exr", OPEN_EXR, "OpenEXR"),
        ("zeros", "a.png", bytes(9999), "cannot be read"),
    ):  # fmt: skip
        yield kind, name, content, words


GROUPS: dict[str, Callable[[Image.Image], Iterator[Made]]] = {
    "Rare colours": colours, "Rare layouts": layouts, "Rare orientations": orientations, "Also refused": refusals,
}  # fmt: skip
