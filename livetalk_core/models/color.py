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


CUBES_TO_LAB = ((0, 116, 0), (500, -500, 0), (0, 200, -200))
LAB_TO_CUBES = ((1 / 116, 1 / 500, 0), (1 / 116, 0, 0), (1 / 116, 0, -1 / 200))


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 -> Lab; channels last."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = rgb.new_tensor(RGB_TO_XYZ) / rgb.new_tensor(WHITE)[:, None]
    xyz = (linear @ to_xyz.T).clamp_(1e-8, 1.0)
    cubes = torch.where(xyz > EPSILON, xyz ** (1 / 3), (KAPPA * xyz + 16) / 116)
    return (cubes @ rgb.new_tensor(CUBES_TO_LAB).T).add_(rgb.new_tensor((-16, 0, 0)))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Lab -> sRGB clamped to 0..1; channels last."""
    cubes = (lab @ lab.new_tensor(LAB_TO_CUBES).T).add_(16 / 116)
    xyz = torch.where(cubes**3 > EPSILON, cubes**3, (116 * cubes - 16) / KAPPA)
    linear = xyz @ (lab.new_tensor(XYZ_TO_RGB) * lab.new_tensor(WHITE)).T
    gamma = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, gamma, 12.92 * linear).clamp_(0, 1)


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
        return cls(mean, (lab_BTHWC - mean).square_().mean((2, 3), keepdim=True).sqrt_())

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
    ratio = reference.std / std
    matched = lab_to_rgb(torch.addcmul(reference.mean - mean * ratio, lab, ratio))
    return torch.lerp(rgb, matched, strength).movedim(-1, 1) * 2 - 1
