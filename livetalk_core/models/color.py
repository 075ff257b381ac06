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


class LabSpace(NamedTuple):
    """The constants of the way from RGB to Lab and back, on one device."""

    to_xyz: Tensor
    to_lab: Tensor
    lab_offset: Tensor
    to_cubes: Tensor
    to_rgb: Tensor

    @classmethod
    def of(cls, like: Tensor) -> "LabSpace":
        """On the device of `like`, in its dtype. They are copied there: make them once."""
        white = like.new_tensor(WHITE)
        return cls(
            (like.new_tensor(RGB_TO_XYZ) / white[:, None]).T,
            like.new_tensor(CUBES_TO_LAB).T,
            like.new_tensor((-16, 0, 0)),
            like.new_tensor(LAB_TO_CUBES).T,
            (like.new_tensor(XYZ_TO_RGB) * white).T,
        )


def rgb_to_lab(rgb: Tensor, space: LabSpace | None = None) -> Tensor:
    """sRGB in 0..1 -> Lab; channels last."""
    space = space or LabSpace.of(rgb)
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = (linear @ space.to_xyz).clamp_(1e-8, 1.0)
    cubes = torch.where(xyz > EPSILON, xyz ** (1 / 3), (KAPPA * xyz + 16) / 116)
    return (cubes @ space.to_lab).add_(space.lab_offset)


def lab_to_rgb(lab: Tensor, space: LabSpace | None = None) -> Tensor:
    """Lab -> sRGB clamped to 0..1; channels last."""
    space = space or LabSpace.of(lab)
    cubes = (lab @ space.to_cubes).add_(16 / 116)
    xyz = torch.where(cubes**3 > EPSILON, cubes**3, (116 * cubes - 16) / KAPPA)
    linear = xyz @ space.to_rgb
    gamma = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, gamma, 12.92 * linear).clamp_(0, 1)


class ColorStatistics(NamedTuple):
    """Lab mean and deviation of each frame, both [B,T,1,1,3], and the space in which they were measured."""

    mean: Tensor
    std: Tensor
    space: LabSpace

    @classmethod
    def of(cls, frames: Tensor) -> "ColorStatistics":
        """Measure frames [B,3,T,H,W] in -1..1."""
        space = LabSpace.of(frames)
        return cls.of_lab(rgb_to_lab((frames.movedim(1, -1) + 1) / 2, space), space)

    @classmethod
    def of_lab(cls, lab_BTHWC: Tensor, space: LabSpace) -> "ColorStatistics":
        """Measure Lab frames, channels last."""
        mean = lab_BTHWC.mean((2, 3), keepdim=True)
        return cls(mean, (lab_BTHWC - mean).square_().mean((2, 3), keepdim=True).sqrt_(), space)

    def to(self, device: torch.device) -> "ColorStatistics":
        """The same on another device."""
        space = LabSpace(*(part.to(device) for part in self.space))
        return ColorStatistics(self.mean.to(device), self.std.to(device), space)


def match_color(frames: Tensor, reference: ColorStatistics, strength: float) -> Tensor:
    """Frames [B,3,T,H,W] in -1..1 moved towards the reference by `strength` in 0 (unchanged) .. 1.

    The reference is on the frames' device.
    """
    if strength == 0:
        return frames
    rgb = (frames.movedim(1, -1) + 1) / 2
    lab = rgb_to_lab(rgb, reference.space)
    mean, std, _ = ColorStatistics.of_lab(lab, reference.space)
    std = torch.where(std < 1e-8, torch.ones_like(std), std)
    ratio = reference.std / std
    matched = lab_to_rgb(torch.addcmul(reference.mean - mean * ratio, lab, ratio), reference.space)
    return torch.lerp(rgb, matched, strength).movedim(-1, 1) * 2 - 1
