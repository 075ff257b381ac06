"""Portraits with previews, lost ends and odd marks, from cameras, telephones and browsers; see `pictures`."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pillow_heif
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from tests.media.profiles import in_space

from .making import ORIENTATION, TURNS, Made, saved
from .rare_pictures import FINE, tiff

FINE_HEIC = {"quality": 97, "chroma": 444}
COLOUR_FILTERS, PREVIEW = 32803, 1
"""TIFF's photometric number of a camera's own pixels, and its bit for a page that shows another one smaller."""


def exif(orientation: int) -> bytes:
    """EXIF that tells an orientation alone."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def pages(*parts: tuple[np.ndarray, dict]) -> bytes:
    """A TIFF of pages, each with options of tifffile."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for pixels, options in parts:
            writer.write(pixels, **{"photometric": "rgb", **options})
    return file.getvalue()


def chunk(name: bytes, content: bytes, behind: int, data: bytes) -> bytes:
    """A PNG with a chunk more behind a byte."""
    more = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:behind] + more + data[behind:]


def previews(truth: Image.Image) -> Iterator[Made]:
    """Several pictures in a file, of which one is the portrait."""
    pixels, small = np.asarray(truth), np.asarray(truth.resize((96, 96)))
    sensor = np.asarray(truth.convert("L")).astype(np.uint16) * 16
    filters = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes((0, 1, 1, 2)), True)]
    yield "TIFF, a preview behind it", "a.tif", pages((pixels, {}), (small, {"subfiletype": PREVIEW})), truth
    yield "TIFF, a preview within", "a.tif", pages((pixels, {"subifds": 1}), (small, {"subfiletype": PREVIEW})), truth
    raw = pages(
        (small, {"subfiletype": PREVIEW, "subifds": 1, "extratags": [(50706, 1, 4, (1, 4, 0, 0), True)]}),
        (sensor, {"photometric": COLOUR_FILTERS, "extratags": filters}),
    )
    yield "DNG", "a.dng", raw, "a camera's raw picture"
    raw = pages(
        (small, {"subfiletype": PREVIEW, "subifds": 1}), (sensor, {"photometric": COLOUR_FILTERS, "extratags": filters})
    )
    yield "NEF", "a.nef", raw, "a camera's raw picture"
    for name, primary in (("first", 0), ("second", 1)):
        order = (truth, Image.new("RGB", (128, 128), "red")) if not primary else (Image.new("RGB", (64, 64)), truth)
        heif = pillow_heif.from_pillow(order[0])
        heif.add_from_pillow(order[1])
        file = io.BytesIO()
        heif.save(file, primary_index=primary, **FINE_HEIC)
        yield f"HEIC of two pictures, the {name} as the main one", "a.heic", file.getvalue(), truth
    content = saved(truth, "a.mpo", save_all=True, append_images=[truth.resize((64, 64))] * 2, **FINE)
    yield "JPEG with two more pictures (MPO)", "a.jpg", content, truth
    yield "AVIF, animated", "a.avif", saved(truth, "a.avif", save_all=True, append_images=[truth]), "holds 2 pictures"
    yield "WebP, animated, of one picture", "a.webp", saved(truth, "a.webp", save_all=True, lossless=True), truth


def layouts(truth: Image.Image) -> Iterator[Made]:
    """Layouts of pixels that were not tried before."""
    grey = truth.convert("L")
    for kind in ("lzma", "zstd", "packbits"):
        yield f"TIFF, {kind}", "a.tif", saved(truth, "a.tif", compression=kind), truth
    deep = np.concatenate([np.asarray(truth), np.full((256, 256, 1), 255, np.uint8)], -1).astype(np.uint16) * 257
    yield "TIFF of 16 bits with alpha", "a.tif", tiff(deep, extrasamples=["unassalpha"]), truth
    lab = ImageCms.profileToProfile(
        truth, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    yield "TIFF in Lab", "a.tif", saved(lab, "a.tif"), truth
    yield "TIFF in YCbCr", "a.tif", saved(truth.convert("YCbCr"), "a.tif"), truth
    yield "TIFF in CMYK, no profile", "a.tif", saved(truth.convert("CMYK"), "a.tif"), truth
    file = io.BytesIO()
    wide = (np.asarray(truth).astype(np.uint16) * 257).tobytes()
    pillow_heif.from_bytes("RGB;16", truth.size, wide).save(file, **FINE_HEIC)
    yield "HEIC of 10 or 12 bits", "a.heic", file.getvalue(), truth
    yield "HEIC with alpha", "a.heic", saved(truth.convert("RGBA"), "a.heic", **FINE_HEIC), truth
    yield "HEIC, grey", "a.heic", saved(grey, "a.heic", quality=97), grey.convert("RGB")
    yield "AVIF, grey", "a.avif", saved(grey, "a.avif", quality=97), grey.convert("RGB")
    for name, subsampling in (("4:2:0", 2), ("4:1:1", "4:1:1")):
        yield f"JPEG, {name}", "a.jpg", saved(truth, "a.jpg", quality=97, subsampling=subsampling), truth
    file = io.BytesIO()
    truth.save(file, "JPEG2000", no_jp2=True)
    yield "JPEG 2000, the codestream alone", "a.j2k", file.getvalue(), truth
    yield (
        "JP2, grey of 16 bits",
        "a.jp2",
        saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "a.jp2"),
        (grey.convert("RGB")),
    )
    for kind, size in (("20 times as wide as high", (2000, 100)), ("20 times as high as wide", (100, 2000))):
        tall = truth.resize(size)
        yield f"PNG, {kind}", "a.png", saved(tall, "a.png"), tall


def marks(truth: Image.Image) -> Iterator[Made]:
    """Ends that are lost, marks that mean nothing, text of other programs."""
    jpeg, png = saved(truth, "a.jpg", **FINE), saved(truth, "a.png")
    yield "JPEG without its end mark", "a.jpg", jpeg[:-2], truth
    yield "JPEG, 10 bytes lost", "a.jpg", jpeg[:-10], "cannot be read"
    yield "JPEG, zeros behind it", "a.jpg", jpeg + bytes(4000), truth
    for orientation in (0, 9):
        content = saved(truth, "a.jpg", exif=exif(orientation), **FINE)
        yield f"JPEG, EXIF orientation {orientation}", "a.jpg", content, truth
    yield "JPEG, EXIF damaged", "a.jpg", saved(truth, "a.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 4, **FINE), truth
    yield "PNG without its end", "a.png", png[:-12], truth
    yield "PNG, 1 % lost", "a.png", png[: -len(png) // 100], "cannot be read"
    yield "PNG, zeros behind it", "a.png", png + bytes(999), truth
    yield "PNG, one colour transparent", "a.png", saved(truth, "a.png", transparency=(255, 0, 255)), truth
    content = chunk(b"eXIf", exif(3).removeprefix(b"Exif\0\0"), len(png) - 12, png)
    yield "PNG, EXIF behind its pixels", "a.png", content, truth.transpose(TURNS[3])
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 5_000_000, zip=True)
    yield "PNG with a workflow of 5 MB", "a.png", saved(truth, "a.png", pnginfo=text), truth


def cameras(truth: Image.Image) -> Iterator[Made]:
    """Adobe RGB that EXIF alone names, as cameras have it, and an index that a program has forgotten to change."""
    tags = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
    wide = in_space(truth, "adobe_rgb")
    for what, picture, space, index in (
        ("Adobe RGB by EXIF's index", wide, 0xFFFF, b"R03\0"), ("Adobe RGB by EXIF's number", wide, 2, b"R98\0"),
        ("sRGB with Adobe RGB's index", truth, 1, b"R03\0"),
    ):  # fmt: skip
        within = struct.pack("<HHHIIHHIII", 2, 0xA001, 3, 1, space, 0xA005, 4, 1, 56, 0)
        named = tags + within + struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)
        yield f"JPEG, {what}", "a.jpg", saved(picture, "a.jpg", exif=named, **FINE), truth
        yield f"WebP, {what}", "a.webp", saved(picture, "a.webp", exif=named, lossless=True), truth


def stopped(truth: Image.Image) -> Iterator[Made]:
    """Zeros in place of the second half, and what stands for another file."""
    for kind, name, options in (
        ("JPEG", "jpg", {}), ("JPEG, progressive", "jpg", {"progressive": True}), ("WebP", "webp", {}),
        ("AVIF", "avif", {}), ("HEIC", "heic", {}), ("PNG", "png", {}), ("JPEG 2000", "jp2", {}),
    ):  # fmt: skip
        data = saved(truth, f"a.{name}", **options)
        yield f"{kind}, half of it zeros", f"a.{name}", data[: len(data) // 2].ljust(len(data), b"\0"), "a whole"
    yield "macOS's companion of a file", "._a.jpg", b"\0\5\x16\7\0\2\0\0" + bytes(4000), "is what macOS keeps beside"
    yield "iCloud's placeholder", "a.jpg", b"bplist00\xd4" + bytes(99), "iCloud"
    yield "Windows shortcut", "a.jpg", b"L\0\0\0\1\x14\2\0" + bytes(999), "a Windows shortcut"


def orientations(truth: Image.Image) -> Iterator[Made]:
    """HEIC as telephones hold it, by its own marks, and the rest in other files."""
    for orientation, turn in TURNS.items():
        content = saved(truth.transpose(turn), "a.heic", exif=exif(orientation), **FINE_HEIC)
        yield f"HEIC, turned as orientation {orientation}", "a.heic", content, truth
    for name, options in (("webp", {"lossless": True}), ("tif", {}), ("avif", {"quality": 97, "subsampling": "4:4:4"})):
        for orientation in (2, 4, 7):
            content = saved(truth.transpose(TURNS[orientation]), f"a.{name}", exif=exif(orientation), **options)
            yield f"{name.upper()}, EXIF orientation {orientation}", f"a.{name}", content, truth


GROUPS: dict[str, Callable[[Image.Image], Iterator[Made]]] = {
    "Several pictures in a file": previews, "More layouts": layouts, "Ends and marks": marks,
    "More orientations": orientations, "Cameras without a profile": cameras, "Not all there": stopped,
}  # fmt: skip
