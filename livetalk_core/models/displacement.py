"""Where each part of one picture is found in another: a smooth field of displacements, from coarse to fine.

Lucas and Kanade's least squares over windows ("An iterative image registration technique", 1981), iterated in a pyramid
as Bouguet describes it. Pictures are compared by their structure alone: light, colour and contrast are taken off window
by window, so that a picture that has grown paler or darker is found all the same.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 128
"""Pixels of the longer side at which displacements are measured."""
LEAST = 16
"""Pixels of the longer side on the pyramid's coarsest level."""
WINDOW = 9
"""Pixels across a window, on every level."""
ROUNDS = 3
"""On each level."""
REACH = 2.0
"""Pixels that a round moves at most."""


def moved(pictures: Tensor, displacement: Tensor) -> Tensor:
    """Pictures [N,C,H,W] looked up at each pixel's place plus its displacement [N,2,H,W] (x, y in pixels); beyond the
    border lies what lies on it."""
    height, width = pictures.shape[-2:]
    rows = torch.arange(height, device=pictures.device, dtype=pictures.dtype)[:, None] + displacement[:, 1]
    columns = torch.arange(width, device=pictures.device, dtype=pictures.dtype) + displacement[:, 0]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(pictures, grid, "bicubic", "border", align_corners=False)


def resized(displacement: Tensor, size: tuple[int, int]) -> Tensor:
    """A field [N,2,h,w] for pictures of another size."""
    height, width = displacement.shape[-2:]
    x, y = F.interpolate(displacement, size=size, mode="bilinear", align_corners=False).split(1, dim=1)
    return torch.cat([x * (size[1] / width), y * (size[0] / height)], dim=1)


def displacement(pictures: Tensor, others: Tensor) -> Tensor:
    """The field [N,2,H,W], in pixels, at which `others` [N,3,H,W] show what `pictures` [N,3,H,W] show at each pixel."""
    size = pictures.shape[-2:]
    longest = max(size)
    flow = None
    for side in _sides(min(SIDE, longest)):
        shape = (max(2, round(size[0] * side / longest)), max(2, round(size[1] * side / longest)))
        here, there = (_structure(F.interpolate(part, size=shape, mode="area")) for part in (pictures, others))
        field = here.new_zeros(len(here), 2, *shape) if flow is None else resized(flow, shape)
        for _ in range(ROUNDS):
            field = _smooth(field + _step(here, moved(there, field)))
        flow = field
    assert flow is not None
    return resized(flow, (size[0], size[1]))


def _sides(finest: int) -> list[int]:
    """The longer sides of the pyramid's levels, the coarsest first."""
    sides = [finest]
    while sides[0] // 2 >= LEAST:
        sides.insert(0, sides[0] // 2)
    return sides


def _mean(values: Tensor, window: int = WINDOW) -> Tensor:
    return F.avg_pool2d(values, window, 1, window // 2, count_include_pad=False)


def _smooth(values: Tensor) -> Tensor:
    return _mean(_mean(values, 5), 5)


def _structure(pictures: Tensor) -> Tensor:
    """Each channel without its local mean and contrast."""
    around = pictures - _mean(pictures)
    return around / (_mean(around.square()) + 1e-3).sqrt()


def _step(here: Tensor, there: Tensor) -> Tensor:
    """What a window has to move by, by least squares over its pixels and channels: [N,2,H,W]."""
    across, down = (_slope((here + there) / 2, axis) for axis in (3, 2))
    off = here - there
    xx, xy, yy, bx, by = (
        _mean((a * b).mean(1, keepdim=True))
        for a, b in ((across, across), (across, down), (down, down), (across, off), (down, off))
    )
    damping = 0.05 * (xx + yy).mean((2, 3), keepdim=True) + 1e-6
    xx, yy = xx + damping, yy + damping
    area = xx * yy - xy * xy
    return (torch.cat([yy * bx - xy * by, xx * by - xy * bx], dim=1) / area).clamp(-REACH, REACH)


def _slope(values: Tensor, axis: int) -> Tensor:
    """The central difference along an axis; on the border, 0."""
    middle = (values.narrow(axis, 2, values.shape[axis] - 2) - values.narrow(axis, 0, values.shape[axis] - 2)) / 2
    return F.pad(middle, (1, 1) if axis == 3 else (0, 0, 1, 1))
