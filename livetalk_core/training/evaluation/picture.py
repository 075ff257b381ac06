"""How a frame looks, whatever it shows: sharpness, colour, and texture statistics to compare with drawn frames.

N frames, K texture features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.color import rgb_to_lab
from .measurer import middle

LEVELS, CELLS = 4, 3
"""Octaves of detail, and cells along each side of the picture in which they are measured."""


def sharpness(frames: Tensor) -> Tensor:
    """Mean size of fine detail (second differences of the luma) of frames [3,N,H,W] in -1..1: [N]."""
    luma = frames.float().mean(0)
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (inner - around / 4).abs().mean((1, 2))


def mean_color(frames: Tensor) -> Tensor:
    """Mean Lab colour of frames [3,N,H,W] in -1..1: [N,3]."""
    return rgb_to_lab((frames.float().movedim(0, -1) + 1) / 2).mean((1, 2))


def texture(frames: Tensor) -> Tensor:
    """Colour of and detail in each cell of frames [3,N,H,W]: logarithms of four octaves' strength, [N,K].

    A Laplacian pyramid of the three Lab channels; what remains at its top gives each cell's colour.
    """
    lab = rgb_to_lab((middle(frames).float().movedim(1, -1) + 1) / 2).movedim(-1, 1) / 100
    parts: list[Tensor] = []
    for _ in range(LEVELS):
        small = F.avg_pool2d(lab, 2)
        detail = lab - F.interpolate(small, scale_factor=2.0, mode="bilinear")
        parts.append(F.adaptive_avg_pool2d(detail.square(), CELLS).add(1e-7).log() / 2)
        lab = small
    parts.append(F.adaptive_avg_pool2d(lab, CELLS) * 10)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@dataclass
class Moments:
    """Mean and variance of texture features, gathered frame by frame: memory does not grow."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Gather [N,K]."""
        features = features.double().cpu()
        self.count += len(features)
        self.total = self.total + features.sum(0)
        self.squares = self.squares + features.square().sum(0)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        """[K]."""
        return torch.as_tensor(self.total / max(1, self.count))

    @property
    def deviation(self) -> Tensor:
        """[K]."""
        return (torch.as_tensor(self.squares / max(1, self.count)) - self.mean.square()).clamp_min(0).sqrt()


def picture_distance(measured: Moments, target: Moments, scale: Tensor) -> float:
    """How far the statistics of some frames are from the target's, in units of `scale` [K].

    The Fréchet distance of normal distributions whose features are taken as independent, as a root mean square over
    the features: 1 means that means (or deviations) differ by as much as frames of different people do.
    """
    gap = (measured.mean - target.mean).square() + (measured.deviation - target.deviation).square()
    return float((gap / scale.square()).mean().sqrt())
