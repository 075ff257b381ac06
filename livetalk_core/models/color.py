"""Colour transfer: gives each frame the Lab mean and deviation of the reference image.

Inside the loop (the corrected frames are what the next chunk starts from) it stops colours from
drifting. Formulas: sRGB (IEC 61966-2-1) and CIE Lab for the D65 white point.
"""

from typing import NamedTuple

import torch
from torch import Tensor

RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
XYZ_TO_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
WHITE = (0.95047, 1.0, 1.08883)
EPSILON, KAPPA = 0.008856, 903.3


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 -> Lab; channels last."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = (linear @ rgb.new_tensor(RGB_TO_XYZ).T / rgb.new_tensor(WHITE)).clamp(1e-8, 1.0)
    x, y, z = torch.where(xyz > EPSILON, xyz ** (1 / 3), (KAPPA * xyz + 16) / 116).unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Lab -> sRGB clamped to 0..1; channels last."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    cubes = torch.stack([y + a / 500, y, y - b / 200], dim=-1)
    xyz = torch.where(cubes**3 > EPSILON, cubes**3, (116 * cubes - 16) / KAPPA)
    linear = (xyz * lab.new_tensor(WHITE)) @ lab.new_tensor(XYZ_TO_RGB).T
    gamma = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, gamma, 12.92 * linear).clamp(0, 1)


class ColorStatistics(NamedTuple):
    """Lab mean and deviation of each frame, both [B,T,1,1,3]."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> "ColorStatistics":
        """Measure frames [B,3,T,H,W] in -1..1."""
        return cls.of_lab(rgb_to_lab((frames.movedim(1, -1) + 1) / 2))

    @classmethod
    def of_lab(cls, lab_BTHWC: Tensor) -> "ColorStatistics":
        """Measure Lab frames, channels last."""
        mean = lab_BTHWC.mean((2, 3), keepdim=True)
        return cls(mean, lab_BTHWC.std((2, 3), keepdim=True, unbiased=False))

    def to(self, device: torch.device) -> "ColorStatistics":
        """The same on another device."""
        return ColorStatistics(self.mean.to(device), self.std.to(device))


def match_color(frames: Tensor, reference: ColorStatistics, strength: float) -> Tensor:
    """Frames [B,3,T,H,W] in -1..1 moved towards the reference by `strength` in 0 (unchanged) .. 1."""
    if strength == 0:
        return frames
    rgb = (frames.movedim(1, -1) + 1) / 2
    lab = rgb_to_lab(rgb)
    mean, std = ColorStatistics.of_lab(lab)
    std = torch.where(std < 1e-8, torch.ones_like(std), std)
    matched = lab_to_rgb((lab - mean) * (reference.std / std) + reference.mean)
    return torch.lerp(rgb, matched, strength).movedim(-1, 1) * 2 - 1
