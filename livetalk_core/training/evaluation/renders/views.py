"""A face followed through a video, and looked at where it is.

The upper face (eyes and nose), which speech does not move, is sought around its place in the reference by normalised
correlation; what is then cut out of a frame moves with it.

N frames, K cells of the mouth's view.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...detection import Face
from ..details import Patches

FACE_SIDE = 48
"""Pixels that a face has across where it is followed."""
REACH = 16
"""Pixels around its place in the reference within which it is followed: a third of a face."""
UPPER = (0.12, 0.22, 0.88, 0.64)
"""What is followed: left, top, right and bottom in shares of the face's box."""
MOUTH = (0.2, 0.62, 0.8, 1.04)
MOUTH_CELLS = (16, 24)
"""Rows and columns of the mouth's view."""
EYES, LIPS = (0.12, 0.28, 0.88, 0.52), (0.22, 0.66, 0.78, 0.96)
"""Regions whose sharpness and flicker are told."""
PATCH_PLACES = ((0.31, 0.40), (0.69, 0.40), (0.31, 0.27), (0.69, 0.27), (0.5, 0.79), (0.5, 0.0))
"""Of `details.PATCHES` in an average face's box."""
VIEW, VIEW_SIDE = 2.2, 128
"""Of what is compared with the reference: its side in faces, and in pixels."""
LOST = 0.4
"""Correlation below which the face of the reference is not there."""


def cut(frames: Tensor, box: Tensor, rows: int, columns: int) -> Tensor:
    """Rectangles of frames [3,N,H,W]: `box` [N,4] has left, top, width and height in pixels; [N,3,rows,columns].

    Beyond the picture lies its border.
    """
    height, width = frames.shape[-2:]
    across = (torch.arange(columns) + 0.5) / columns
    down = (torch.arange(rows) + 0.5) / rows
    x = (box[:, 0, None] + across * box[:, 2, None]) * (2 / width) - 1
    y = (box[:, 1, None] + down * box[:, 3, None]) * (2 / height) - 1
    grid = torch.stack([x[:, None].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=-1)
    return F.grid_sample(frames.transpose(0, 1), grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Follower:
    """A face in the reference frame, its upper half [1,1,h,w] centred and of length 1, and the portrait's patches."""

    face: Face
    template: Tensor
    patches: Patches

    @classmethod
    def of(cls, reference: Tensor, face: Face) -> "Follower":
        """From the reference frame [3,1,H,W] in -1..1."""
        rows, columns = _pixels(UPPER, face)
        upper = cut(reference, _box(face, UPPER, torch.zeros(1, 2)), rows, columns).mean(1, keepdim=True)
        centred = upper - upper.mean()
        view = cut(reference, _view(face, torch.zeros(1, 2)), VIEW_SIDE, VIEW_SIDE).transpose(0, 1)
        places = [_in_view(face, *place) for place in PATCH_PLACES]
        return cls(face, centred / centred.norm().clamp_min(1e-4), Patches.of(view, torch.tensor(places)))

    def follow(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """How far the face is from its place in the reference, [N,2] as x, y in pixels, and how well it is known again,
        [N] (1: as it was)."""
        rows, columns = self.template.shape[2:]
        scale = self.face.width / FACE_SIDE
        margin = REACH * scale
        box = _box(self.face, UPPER, torch.zeros(frames.shape[1], 2)) + torch.tensor(
            [-margin, -margin, 2 * margin, 2 * margin]
        )
        near = cut(frames, box, rows + 2 * REACH, columns + 2 * REACH).mean(1, keepdim=True)
        product = F.conv2d(near, self.template)
        count = rows * columns
        mean = F.avg_pool2d(near, (rows, columns), 1)
        energy = (F.avg_pool2d(near.square(), (rows, columns), 1) - mean.square()).clamp_min(0) * count
        likeness = (product / energy.sqrt().clamp_min(1e-3))[:, 0]
        peak, at = likeness.flatten(1).max(dim=1)
        y, x = at // likeness.shape[2], at % likeness.shape[2]
        fine = torch.stack([_vertex(likeness, y, x, 0, 1), _vertex(likeness, y, x, 1, 0)], dim=1)
        return (torch.stack([x, y], dim=1) - REACH + fine) * scale, peak

    def mouth(self, frames: Tensor, offsets: Tensor) -> Tensor:
        """The luma of the mouth's region, cell by cell: [N,K]."""
        rows, columns = MOUTH_CELLS
        seen = cut(frames, _box(self.face, MOUTH, offsets), 3 * rows, 3 * columns).mean(1, keepdim=True)
        return F.avg_pool2d(seen, 3).flatten(1)

    def likeness(self, frames: Tensor, offsets: Tensor) -> Tensor:
        """How well the portrait's patches (`details.PATCHES`) are found again: [6,N]."""
        views = cut(frames, _view(self.face, offsets), VIEW_SIDE, VIEW_SIDE).transpose(0, 1)
        return self.patches.find(views)[0]


def _pixels(part: tuple[float, float, float, float], face: Face) -> tuple[int, int]:
    """Rows and columns of a part of the face where it is followed."""
    left, top, right, bottom = part
    return round((bottom - top) * FACE_SIDE * face.height / face.width), round((right - left) * FACE_SIDE)


def _box(face: Face, part: tuple[float, float, float, float], offsets: Tensor) -> Tensor:
    """A part of a face that lies `offsets` [N,2] from its place: [N,4] as in `cut`."""
    (left, top), (right, bottom) = face.at(*part[:2]), face.at(*part[2:])
    size = torch.tensor([right - left, bottom - top]).expand(len(offsets), -1)
    return torch.cat([offsets + torch.tensor([left, top]), size], dim=1)


def _view(face: Face, offsets: Tensor) -> Tensor:
    """The square around a face in which it is compared, moved by `offsets` [N,2]: [N,4] as in `cut`."""
    side = VIEW * face.width
    x, y = face.at(0.5, 0.45)
    square = torch.tensor([x - side / 2, y - side / 2, side, side]).repeat(len(offsets), 1)
    square[:, :2] += offsets
    return square


def _in_view(face: Face, across: float, down: float) -> tuple[float, float]:
    """Where the view shows a place of the face's box, in its pixels."""
    x, y = across - 0.5, (down - 0.45) * face.height / face.width
    return (x / VIEW + 0.5) * VIEW_SIDE, (y / VIEW + 0.5) * VIEW_SIDE


def _vertex(values: Tensor, y: Tensor, x: Tensor, down: int, across: int) -> Tensor:
    """How far a parabola through the largest of `values` [N,h,w] and its neighbours has its vertex off it: [N]."""
    number = torch.arange(len(values))
    height, width = values.shape[1:]

    def at(step: int) -> Tensor:
        rows, columns = (y + step * down).clamp(0, height - 1), (x + step * across).clamp(0, width - 1)
        return values[number, rows, columns]

    before, middle, after = at(-1), at(0), at(1)
    bend = before - 2 * middle + after
    return torch.where(bend < -1e-6, 0.5 * (before - after) / bend, 0.0).clamp(-0.5, 0.5)
