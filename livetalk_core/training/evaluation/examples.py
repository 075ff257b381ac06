"""What the measurer learns from: poses of all kinds, and all that may befall generated frames, for it to see through:
blur, sharpening, ghosts, false colours, noise.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..chance import spread
from ..features import Pose

REACH = 4
"""Pixels to either side that a blur mixes."""


def any_poses(faces: int, poses: int, chance: torch.Generator) -> Pose:
    """Poses [faces, poses], each part independent of the others and further than `motion.py` goes."""

    def between(low: float, high: float) -> Tensor:
        return spread(chance, low, high, faces, poses)

    def often(value: float, share: float, otherwise: Tensor) -> Tensor:
        return torch.where(between(0, 1) < share, value, otherwise)

    eyes = torch.where(between(0, 1) < 0.6, between(0.8, 1), often(0.0, 0.2, between(0, 0.8)))
    return Pose(
        x=between(-0.12, 0.12), y=between(-0.09, 0.09), scale=between(0.92, 1.08), roll=between(-0.2, 0.2),
        yaw=between(-0.4, 0.4), pitch=between(-0.3, 0.3), gaze_x=often(0.0, 0.3, between(-1.1, 1.1)),
        gaze_y=often(0.0, 0.3, between(-0.9, 0.9)), eyes=eyes, brow=between(-1, 1),
        opening=often(0.0, 0.2, between(0, 1)), width=between(-1, 1),
    )  # fmt: skip


def spread_like(frames: Tensor, low: float, high: float, chance: torch.Generator, *shape: int) -> Tensor:
    """Numbers in [low, high), one a frame (or `shape` a frame): [N,...] to combine with [N,3,H,W]."""
    shape = shape or (1, 1, 1)
    return low + (high - low) * torch.rand((len(frames), *shape), generator=chance)


def blurred(frames: Tensor, sigma_N: Tensor) -> Tensor:
    """Frames [N,3,H,W], each blurred by a Gaussian of its own deviation in pixels (0: as it is)."""
    offsets = torch.arange(-REACH, REACH + 1)
    weights = torch.exp(-(offsets**2) / (2 * sigma_N[:, None].clamp_min(1e-3) ** 2))
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    flat = F.pad(frames.flatten(0, 1)[None], (REACH,) * 4, mode="replicate")
    rows = F.conv2d(flat, weights[..., None], groups=len(weights))
    return F.conv2d(rows, weights[..., None, :], groups=len(weights))[0].unflatten(0, (-1, 3))


def recoloured(frames: Tensor, amount: float, chance: torch.Generator) -> Tensor:
    """Gain and offset of each colour changed by up to `amount`."""
    gain, offset = (spread_like(frames, -amount, amount, chance, 3, 1, 1) for _ in range(2))
    return frames * (1 + gain) + 0.7 * offset


def noisy(frames: Tensor, amount: float, chance: torch.Generator) -> Tensor:
    """Fine and coarse noise of up to `amount`, other for each frame."""
    fine = torch.randn(frames.shape, generator=chance)
    coarse = torch.randn((len(frames), 3, 12, 12), generator=chance)
    coarse = F.interpolate(coarse, size=frames.shape[-2:], mode="bilinear")
    weight, other = (spread_like(frames, 0, amount, chance) for _ in range(2))
    return frames + weight * fine + other * coarse


def ghosted(frames: Tensor, others: Tensor, chance: torch.Generator) -> Tensor:
    """A third at most of another frame of the same face shines through every second one."""
    weight = spread_like(frames, 0, 0.33, chance) * (spread_like(frames, 0, 1, chance) < 0.5)
    return torch.lerp(frames, others, weight)


def degraded(frames: Tensor, poses: int, chance: torch.Generator) -> Tensor:
    """Frames [N,3,H,W] in -1..1 of faces in `poses` poses each, all of it at once."""
    others = frames.unflatten(0, (-1, poses)).roll(1, dims=1).flatten(0, 1)
    frames = ghosted(frames, others, chance)
    soft = blurred(frames, spread_like(frames, 0.3, 2.0, chance).flatten())
    frames = torch.lerp(frames, soft, spread_like(frames, -0.7, 1.0, chance))
    return noisy(recoloured(frames, 0.2, chance), 0.1, chance).clamp(-1, 1)
