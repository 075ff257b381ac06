"""Colours that a file names by numbers and not by a profile, as a profile: PNG's chunks, AVIF's and HEIC's boxes, EXIF.

Code points are those of ITU-T H.273; the profile is ICC.1:2001-04 of a display with primaries and one curve.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

PNG_HEAD = 8
HEAD_BYTES = 65_536
"""Of an AVIF file, in which its boxes are looked for."""
Primaries = tuple[float, ...]
"""x and y of white, red, green and blue in CIE 1931, as PNG has them."""
D65 = (0.3127, 0.3290)
SRGB: Primaries = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB, ADOBE_GAMMA = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256
"""Adobe RGB (1998)."""
PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
WHITE_NITS, PQ_NITS, HLG_NITS = 203, 10_000, 1_000
"""Diffuse white in HDR (ITU-R BT.2408), and what the largest numbers of PQ and HLG stand for."""
LEVELS = 4096
"""Entries of a curve."""
SRGB_GAMMA, SAME_GAMMA = 0.45455, 0.005
"""PNG's number for sRGB's curve, which is no power; and how near to it still means sRGB."""
LEAST_GAMMA, MOST_GAMMA = 0.2, 3.0
"""Of PNG's; others are damage."""
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
GREY_MODES = ("1", "L", "LA", "La", "F")
EXIF, INTEROPERABILITY = 0x8769, 0xA005
"""EXIF's tags for where its own tags and those of interoperability lie."""
COLOR_SPACE, SRGB_SPACE, ADOBE_RGB_SPACE, INDEX, ADOBE_RGB_INDEX = 0xA001, 1, 2, 1, "R03"
"""Two ways in which cameras that write no profile say that a picture is in Adobe RGB: DCF's index, and a number."""

Light = Callable[[np.ndarray], np.ndarray]
"""From a file's numbers to light, both 0..1."""


class Tags(NamedTuple):
    """What the numbers in a file mean."""

    primaries: Primaries
    light: Light


def profile_of(image: Image.Image, path: Path) -> bytes | None:
    """A picture's own profile, or one made of what else its file says of its colours; None where that is sRGB."""
    codes = _codes(image, path)
    own = image.info.get("icc_profile")
    if own and not (codes and image.format == "PNG"):  # there alone they come before a profile
        return own
    tags = _coded(*codes) if codes else _png_numbers(image) or _camera(image)
    if tags is None:
        return None
    grey = image.mode in GREY_MODES or image.mode.startswith("I")
    return _grey_profile(tags) if grey else _rgb_profile(tags)


def _codes(image: Image.Image, path: Path) -> tuple[int, int] | None:
    """The numbers of primaries and transfer function; None where a file has none."""
    if image.format == "PNG":
        return _cicp(path)
    if image.format == "AVIF":
        with path.open("rb") as file:
            _, box_name, behind = file.read(HEAD_BYTES).partition(b"colrnclx")
        return struct.unpack(">HH", behind[:4]) if box_name and len(behind) >= 4 else None
    box: dict[str, Any] = image.info.get("nclx_profile") or {}
    names = ("color_primaries", "transfer_characteristics")
    return (int(box[names[0]]), int(box[names[1]])) if all(name in box for name in names) else None


def _cicp(path: Path) -> tuple[int, int] | None:
    """Of PNG's chunk cICP, before the pixels."""
    with path.open("rb") as file:
        file.seek(PNG_HEAD)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP":
                content = file.read(2)
                return (content[0], content[1]) if len(content) == 2 else None
            file.seek(length + 4, 1)
    return None


def _coded(primaries: int, transfer: int) -> Tags | None:
    """What two code points mean; None for sRGB and what is taken for it: unknown ones, and film's and TV's curves."""
    light = TRANSFERS.get(transfer, _srgb)
    known = PRIMARIES.get(primaries, SRGB)
    return None if known == SRGB and light is _srgb else Tags(known, light)


def _png_numbers(image: Image.Image) -> Tags | None:
    """PNG's gAMA and cHRM, where no sRGB stands beside them."""
    gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    if image.format != "PNG" or "srgb" in image.info or not gamma or not LEAST_GAMMA <= gamma <= MOST_GAMMA:
        return None
    same = abs(gamma - SRGB_GAMMA) < SAME_GAMMA
    known = SRGB if primaries is None or np.allclose(primaries, SRGB, atol=0.002) else tuple(primaries)
    if same and known == SRGB:
        return None
    return Tags(known, _srgb if same else lambda numbers: numbers ** (1 / gamma))


def _camera(image: Image.Image) -> Tags | None:
    """Adobe RGB, where EXIF names it (DCF 2.0); a damaged EXIF names nothing."""
    if "srgb" in image.info:
        return None
    try:
        exif = image.getexif()
        space = exif.get_ifd(EXIF).get(COLOR_SPACE)
        index = exif.get_ifd(INTEROPERABILITY).get(INDEX)
    except (KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return None
    named = space == ADOBE_RGB_SPACE or (index == ADOBE_RGB_INDEX and space != SRGB_SPACE)
    return Tags(ADOBE_RGB, lambda numbers: numbers**ADOBE_GAMMA) if named else None


def _srgb(numbers: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def _pq(numbers: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, diffuse white as 1; what is brighter is cut off."""
    root = numbers ** (32 / 2523)
    light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    return np.minimum(light * PQ_NITS / WHITE_NITS, 1)


def _hlg(numbers: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, on a display of 1,000 nits with its system gamma of 1.2, diffuse white as 1."""
    low, high = numbers**2 / 3, (np.exp((numbers - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.minimum(np.where(numbers <= 0.5, low, high) ** 1.2 * HLG_NITS / WHITE_NITS, 1)


TRANSFERS: dict[int, Light] = {
    4: lambda numbers: numbers**2.2, 5: lambda numbers: numbers**2.8, 8: lambda numbers: numbers, 16: _pq, 18: _hlg,
}  # fmt: skip


def _rgb_profile(tags: Tags) -> bytes | None:
    """None where the primaries span no colours."""
    if min(tags.primaries[1::2]) <= 0:
        return None
    white, *corners = (np.array([x, y, 1 - x - y]) for x, y in zip(*[iter(tags.primaries)] * 2, strict=True))
    try:
        scale = np.linalg.solve(np.stack(corners, 1), white / white[1])
        columns = np.stack(corners, 1) * scale
        source, target = BRADFORD @ (white / white[1]), BRADFORD @ D50
        columns = np.linalg.inv(BRADFORD) @ np.diag(target / source) @ BRADFORD @ columns
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        return None
    curve = _curve(tags.light)
    named = {letter + b"XYZ": _xyz(column) for letter, column in zip((b"r", b"g", b"b"), columns.T, strict=True)}
    return _profile(b"RGB ", named | {letter + b"TRC": curve for letter in (b"r", b"g", b"b")})


def _grey_profile(tags: Tags) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(tags.light)})


def _profile(colors: bytes, elements: dict[bytes, bytes]) -> bytes:
    elements = {b"desc": b"desc\0\0\0\0\0\0\0\1" + bytes(79), b"wtpt": _xyz(D50), **elements}
    table, content, start = b"", b"", 128 + 4 + 12 * len(elements)
    for name, element in elements.items():
        table += name + struct.pack(">II", start + len(content), len(element))
        content += element + bytes(-len(element) % 4)
    size = start + len(content)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x0240_0000, b"mntr", colors, b"XYZ ", b"acsp").ljust(68, b"\0")
    head = (head + struct.pack(">3i", *(round(value * 65536) for value in D50))).ljust(128, b"\0")
    return head + struct.pack(">I", len(elements)) + table + content


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _curve(light: Light) -> bytes:
    levels = light(np.linspace(0, 1, LEVELS)).clip(0, 1)
    return b"curv\0\0\0\0" + struct.pack(">I", LEVELS) + (levels * 65535).round().astype(">u2").tobytes()
