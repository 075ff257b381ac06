"""Colour spaces for tests: their ICC profiles, and pictures in them computed from sRGB without any colour library."""

import struct

import numpy as np
from PIL import Image

SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
"""Colorants in XYZ for the white of D50, as ICC profiles hold them."""
SPACES = {
    "display_p3": (((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)), None),
    "adobe_rgb": (((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 563 / 256),
    "prophoto": (((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)), 1.8),
}
"""Colorants, and gamma (None: sRGB's curve)."""
WHITE = (0.9642, 1.0, 0.8249)
GRID = 17


def linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(values):
    values = np.clip(values, 0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def in_space(picture, name):
    """An RGB picture as the same colours in another space."""
    colorants, gamma = SPACES[name]
    xyz = linear(np.asarray(picture) / 255) @ np.array(SRGB)
    values = np.clip(xyz @ np.linalg.inv(np.array(colorants)), 0, 1)
    values = encoded(values) if gamma is None else values ** (1 / gamma)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def profile(colorspace, kind, pcs, tags):
    """An ICC profile, version 2."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += signature + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"test", 0x02400000, kind, colorspace, pcs, b"", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(round(v * 65536) for v in WHITE))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def text(words):
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + bytes(78)


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def curve(gamma):
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    table = (linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(table)) + table.tobytes()


def rgb_profile(name):
    colorants, gamma = SPACES.get(name, (SRGB, None))
    columns = {letter + b"XYZ": xyz(values) for letter, values in zip((b"r", b"g", b"b"), colorants, strict=True)}
    curves = {letter + b"TRC": curve(gamma) for letter in (b"r", b"g", b"b")}
    return profile(b"RGB ", b"mntr", b"XYZ ", {b"desc": text(name.encode()), b"wtpt": xyz(WHITE), **columns, **curves})


def grey_profile(gamma):
    return profile(b"GRAY", b"mntr", b"XYZ ", {b"desc": text(b"grey"), b"wtpt": xyz(WHITE), b"kTRC": curve(gamma)})


def press(inks):
    """The sRGB colours 0..1 of inks [..., 4] in 0..1 on a press that exists nowhere: its inks are not pure."""
    absorbed = np.array([[0.95, 0.45, 0.15], [0.15, 0.85, 0.40], [0.02, 0.10, 0.80], [0.95, 0.95, 0.95]])
    return np.prod(1 - inks[..., None] * absorbed, axis=-2)


def cmyk_profile():
    steps = np.linspace(0, 1, GRID)
    inks = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), -1)
    relative = (linear(press(inks)) @ np.array(SRGB)) / WHITE
    cubes = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    x, y, z = np.moveaxis(cubes, -1, 0)
    lab = np.stack([(116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128], -1)
    colors = lab.round().clip(0, 255).astype(np.uint8).tobytes()
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([4, 3, GRID, 0])
    head += struct.pack(">9i", *(round(v * 65536) for v in np.eye(3).ravel()))
    lut = head + ramp * 4 + colors + ramp * 3
    return profile(b"CMYK", b"prtr", b"Lab ", {b"desc": text(b"press"), b"wtpt": xyz(WHITE), b"A2B0": lut})
