"""Colours that a file names by numbers: PNG's gAMA, cHRM and cICP, the nclx box of AVIF and HEIC, a camera's EXIF."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from livetalk_core.media.image import load_image

from .profiles import in_space, linear

P3_CORNERS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""Linear sRGB in the primaries of BT.2020 (ITU-R BT.2087)."""


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """Smooth colours of all kinds, none at the very edge of sRGB."""
    across, down = np.meshgrid(np.linspace(20, 235, 90), np.linspace(20, 235, 120))
    return Image.fromarray(np.stack([across, down, 255 - (across + down) / 2], -1).round().astype(np.uint8))


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(levels, *chunks):
    """A PNG of 16 bits from numbers 0..1 [H,W,3] or [H,W], with chunks before the pixels."""
    rows = (levels * 65535).round().astype(">u2").reshape(len(levels), -1)
    head = struct.pack(">IIBBBBB", levels.shape[1], len(levels), 16, 2 if levels.ndim == 3 else 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def gamma(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def codes(primaries, transfer):
    return b"cICP", bytes([primaries, transfer, 0, 1])


def error(path, content, truth):
    path.write_bytes(content)
    return np.abs(np.asarray(load_image(path), float) - np.asarray(truth, float)).mean()


@pytest.mark.parametrize("power", [1.0, 1 / 1.8, 1 / 2.2])
def test_gamma_of_a_png(tmp_path, portrait, power):
    light = linear(np.asarray(portrait) / 255)
    assert error(tmp_path / "a.png", png(light**power, gamma(power)), portrait) < 1.5


def test_gamma_of_a_grey_png(tmp_path):
    grey = np.linspace(30, 220, 80 * 80).reshape(80, 80)
    truth = np.repeat(grey[..., None], 3, -1)
    assert error(tmp_path / "a.png", png(linear(grey / 255), gamma(1.0)), truth) < 1.5


@pytest.mark.parametrize(
    "chunks", [[gamma(0.45455)], [(b"sRGB", b"\0"), gamma(1.0)], [codes(1, 13)], [codes(2, 2)], [gamma(0.00001)], []]
)
def test_what_stands_for_srgb_changes_nothing(tmp_path, portrait, chunks):
    assert error(tmp_path / "a.png", png(np.asarray(portrait) / 255, *chunks), portrait) == 0


@pytest.mark.parametrize("chunks", [[codes(12, 13)], [gamma(0.45455), (b"cHRM", struct.pack(">8I", *P3_CORNERS))]])
def test_primaries_of_a_png(tmp_path, portrait, chunks):
    wide = np.asarray(in_space(portrait, "display_p3")) / 255
    assert np.abs(wide * 255 - np.asarray(portrait)).mean() > 3
    assert error(tmp_path / "a.png", png(wide, *chunks), portrait) < 1.5


@pytest.mark.parametrize("corners", [(0,) * 8, (31270, 32900) * 4, (31270, 0, 68000, 32000, 26500, 69000, 15000, 6000)])
def test_primaries_that_span_nothing_are_left_aside(tmp_path, portrait, corners):
    chunks = gamma(0.45455), (b"cHRM", struct.pack(">8I", *corners))
    assert error(tmp_path / "a.png", png(np.asarray(portrait) / 255, *chunks), portrait) == 0


def pq(light):
    """SMPTE ST 2084 of light whose diffuse white, 1, is 203 nits."""
    power = (light * 203 / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light):
    """ITU-R BT.2100 of light whose diffuse white, 1, is 203 of 1,000 nits."""
    scene = (light * 0.203) ** (1 / 1.2)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


@pytest.mark.parametrize(("transfer", "curve"), [(16, pq), (18, hlg)])
def test_hdr_has_the_white_of_its_diffuse_surfaces(tmp_path, portrait, transfer, curve):
    light = linear(np.asarray(portrait) / 255) @ TO_2020.T
    assert error(tmp_path / "a.png", png(curve(light.clip(0, 1)), codes(9, transfer)), portrait) < 1.5
    brighter = png(curve(np.full((80, 80, 3), 4.0)), codes(9, transfer))
    assert error(tmp_path / "b.png", brighter, np.full((80, 80, 3), 255)) == 0


def with_codes(content, primaries, transfer):
    at = content.index(b"colrnclx") + 8
    return content[:at] + struct.pack(">HH", primaries, transfer) + content[at + 4 :]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_codes_of_an_avif(tmp_path, portrait):
    file = io.BytesIO()
    in_space(portrait, "display_p3").save(file, "AVIF", quality=97, subsampling="4:4:4")
    assert error(tmp_path / "a.avif", with_codes(file.getvalue(), 12, 13), portrait) < 1.5


def test_codes_of_a_heic(tmp_path, portrait):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    named = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 1, "full_range_flag": 1}
    heif.from_pillow(in_space(portrait, "display_p3")).save(file, quality=97, chroma=444, **named)
    assert error(tmp_path / "a.heic", file.getvalue(), portrait) < 1.5


def exif(space, index):
    """EXIF with a colour space and an index of interoperability, each in a directory of its own."""
    heads = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
    spaces = struct.pack("<HHHIIHHIII", 2, 0xA001, 3, 1, space, 0xA005, 4, 1, 56, 0)
    return heads + spaces + struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)


@pytest.mark.parametrize(("space", "index"), [(0xFFFF, b"R03\0"), (2, b"R98\0")])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_adobe_rgb_as_cameras_name_it(tmp_path, portrait, space, index, name):
    """By EXIF alone: they write no profile."""
    file, wide = io.BytesIO(), in_space(portrait, "adobe_rgb")
    assert np.abs(np.asarray(wide, float) - np.asarray(portrait)).mean() > 3
    options = {"subsampling": 0} if name == "a.jpg" else {"lossless": True}
    wide.save(file, {"a.jpg": "JPEG", "a.webp": "WEBP"}[name], quality=97, exif=exif(space, index), **options)
    assert error(tmp_path / name, file.getvalue(), portrait) < 1.5


@pytest.mark.parametrize(
    "content", [exif(1, b"R03\0"), exif(0xFFFF, b"R98\0"), exif(0xFFFF, b"R03\0")[:-12], exif(2, b"")[:40], b"Exif\0\0"]
)
def test_other_exif_changes_no_colour(tmp_path, portrait, content):
    file = io.BytesIO()
    portrait.save(file, "PNG", exif=content)
    assert error(tmp_path / "a.png", file.getvalue(), portrait) == 0
