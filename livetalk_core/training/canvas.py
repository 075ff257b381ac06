"""Drawing with tensors: anti-aliased shapes by their signed distance, for many pictures at once, on any device.

B pictures, h w pixels. Coordinates: x to the right, y down, lengths as in `looks.py`.
"""

import torch
from torch import Tensor


def column(values: Tensor) -> Tensor:
    """One value a picture, [B] -> [B,1,1], to combine with coordinates [B,h,w]."""
    return values[:, None, None]


def ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Distance to an ellipse around 0, negative inside: exact to first order at the outline."""
    near = ((x / rx) ** 2 + (y / ry) ** 2).sqrt()
    slope = ((x / rx**2) ** 2 + (y / ry**2) ** 2).sqrt()
    return near * (near - 1) / slope.clamp_min(1e-4)


def box(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float, corner: Tensor | float) -> Tensor:
    """Distance to a rounded box around 0, negative inside."""
    dx, dy = x.abs() - rx + corner, y.abs() - ry + corner
    outside = (dx.clamp_min(0) ** 2 + dy.clamp_min(0) ** 2).sqrt()
    return outside + torch.maximum(dx, dy).clamp_max(0) - corner


def union(a: Tensor, b: Tensor, blend: float = 0.04) -> Tensor:
    """Distance to both shapes together, their meeting rounded by `blend`."""
    mix = (0.5 + 0.5 * (b - a) / blend).clamp(0, 1)
    return b + (a - b) * mix - blend * mix * (1 - mix)


def fill(distance: Tensor, pixel: float, soft: float = 0.0) -> Tensor:
    """Coverage 0..1 from a distance; `soft` widens the edge beyond one pixel."""
    return (0.5 - distance / (pixel + soft)).clamp(0, 1)


def between(y: Tensor, top: Tensor, bottom: Tensor, pixel: Tensor | float) -> Tensor:
    """Share of a pixel's height at `y` that lies between two curves: exact, 0 where they touch."""
    return (((bottom - y) / pixel + 0.5).clamp(0, 1) - ((top - y) / pixel + 0.5).clamp(0, 1)).clamp_min(0)


def line(distance: Tensor, half: Tensor | float, pixel: Tensor | float) -> Tensor:
    """Coverage of a line of half width `half` where `distance` is 0."""
    return ((half - distance.abs()) / pixel + 0.5).clamp(0, 1)


class Layer:
    """A transparent picture in the making: premultiplied colour and coverage, [B,4,h,w]."""

    def __init__(self, x_Bhw: Tensor) -> None:
        batch, height, width = x_Bhw.shape
        self.rgba = x_Bhw.new_zeros(batch, 4, height, width)

    def paint(self, alpha_Bhw: Tensor, color: Tensor, within: bool = False) -> None:
        """Lay a colour ([B,3] or [B,3,h,w], 0..1) over it; `within` only where something is already."""
        alpha = alpha_Bhw[:, None]
        cover = alpha * self.rgba[:, 3:] if within else alpha
        color = color[:, :, None, None] if color.ndim == 2 else color
        self.rgba[:, :3] = self.rgba[:, :3] * (1 - alpha) + cover * color
        if not within:
            self.rgba[:, 3:] = self.rgba[:, 3:] + alpha * (1 - self.rgba[:, 3:])
