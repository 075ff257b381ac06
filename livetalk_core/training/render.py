"""Frames of drawn faces: layers warped by the head's pose, eyes and mouth drawn upon them. Any device, any size.

B faces, T frames each, N = B*T; H W pixels. Places on a face are measured from the head's centre; the short side of a
picture is 1.64 (`faces.VIEW`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .faces import HEAD_SPAN, REAR_SPAN, VIEW, Layers, draw_layers, picture_grid
from .features import MAX_OPENING, Pose, draw_eye, draw_mouth
from .looks import Looks

DEPTH = 0.24
"""How far the middle of the face moves when the head turns by one radian."""
PIVOT = 0.42
"""The head turns around a point below its centre: the neck."""
JAW = 0.05
"""How far the chin sinks when the mouth is fully open."""
EYE_WINDOW = (0.36, 0.30)
MOUTH_WINDOW = (0.34, 0.40)
"""Height and width of the windows that are redrawn in every frame."""


class Clip(NamedTuple):
    """Frames [N,3,H,W] in -1..1 and what they show: coverage of open mouth and eyes [N,3,H,W] (mouth, left, right),
    and where mouth, left and right eye are, [N,3,2] as x, y from the picture's centre."""

    frames: Tensor
    open: Tensor
    places: Tensor


class _View(NamedTuple):
    """N frames as they are drawn: the faces' looks and poses, and each pixel's place on the face, [N,H*W] each."""

    looks: Looks
    pose: Pose
    x: Tensor
    y: Tensor
    size: tuple[int, int]

    @property
    def pixel(self) -> Tensor:
        """Size of a pixel on the face, [N,1,1]."""
        return (2 * VIEW / min(self.size) / self.pose.scale)[:, None, None]


def _bump(looks: Looks, x: Tensor, y: Tensor) -> Tensor:
    """How far a place stands out of the head, 1 in the middle, 0 at the outline: [N, ...]."""
    rx, ry = (size.reshape(-1, *[1] * (x.ndim - 1)) for size in (looks.head_rx, looks.head_ry))
    return (1 - (x / rx) ** 2 - (y / ry) ** 2).clamp_min(0)


def _view(looks: Looks, pose: Pose, height: int, width: int) -> _View:
    """Where on its face each pixel lies: turned and moved back, then the parallax of a turned head taken off."""
    x, y = (v.flatten()[None] for v in picture_grid(height, width, pose.x.device))
    x, y = x - (looks.centre_x + pose.x)[:, None], y - (looks.centre_y + pose.y)[:, None] - PIVOT
    cos, sin = (pose.roll.cos() / pose.scale)[:, None], (pose.roll.sin() / pose.scale)[:, None]
    x, y = x * cos + y * sin, y * cos - x * sin + PIVOT
    lift = DEPTH * _bump(looks, x, y)
    return _View(looks, pose, x - pose.yaw[:, None] * lift, y - pose.pitch[:, None] * lift, (height, width))


def place(looks: Looks, pose: Pose, at_x: Tensor, at_y: Tensor) -> Tensor:
    """Where a place [N] on the face is seen in the picture: [N,2]."""
    lift = DEPTH * _bump(looks, at_x, at_y)
    x, y = at_x + pose.yaw * lift, at_y + pose.pitch * lift - PIVOT
    cos, sin = pose.roll.cos() * pose.scale, pose.roll.sin() * pose.scale
    x, y = x * cos - y * sin, x * sin + y * cos + PIVOT
    return torch.stack([x + looks.centre_x + pose.x, y + looks.centre_y + pose.y], dim=-1)


class Cover(NamedTuple):
    """Pictures [B,3,s,s] in 0..1 that lie over ground, hair with clothes, and face: how much of each, [B,3] in 0..1."""

    picture: Tensor
    share: Tensor


def render(looks: Looks, pose: Pose, height: int, width: int, cover: Cover | None = None) -> Clip:
    """Draw B faces in T poses each ([B,T]), N = B*T frames."""
    batch, frames = pose.x.shape
    face = torch.arange(batch, device=pose.x.device).repeat_interleave(frames)
    view = _view(looks.take(face), pose.flat(), height, width)
    layers = draw_layers(looks, height, width)
    layers = layers if cover is None else _covered(layers, cover)
    rear = _sample(layers.rear, *_rear_place(view), REAR_SPAN, batch)
    upper = _sample(layers.head, view.x, _sunk(view), HEAD_SPAN, batch)
    rgb = layers.ground.flatten(2).repeat_interleave(frames, 0).contiguous()
    for layer in (rear, upper[:, :4]):
        rgb = rgb.mul_(1 - layer[:, 3:]).add_(layer[:, :3])
    rgb, open_, places = _features(rgb, view)
    rgb = rgb.mul_(1 - upper[:, 7:]).add_(upper[:, 4:7])
    return Clip(rgb.unflatten(2, (height, width)).mul_(2).sub_(1), open_.unflatten(2, (height, width)), places)


def _covered(layers: Layers, cover: Cover) -> Layers:
    """Layers that show a picture in place of some of their own colours; what they leave open stays open."""
    ground, rear, face = cover.share[:, :, None, None, None].unbind(1)

    def mixed_in(layer: Tensor, share: Tensor, alpha: Tensor | float) -> Tensor:
        picture = F.interpolate(cover.picture, size=layer.shape[-2:], mode="bilinear")
        return torch.lerp(layer, picture * alpha, share)

    head, front = layers.head[:, :4], layers.head[:, 4:]
    parts = [torch.cat([mixed_in(p[:, :3], share, p[:, 3:]), p[:, 3:]], dim=1) for p, share in
             ((layers.rear, rear), (head, face), (front, rear))]  # fmt: skip
    return Layers(mixed_in(layers.ground, ground, 1.0), parts[0], torch.cat(parts[1:], dim=1))


def _sunk(view: _View) -> Tensor:
    """The y of each pixel on the face at rest: below the mouth, an open jaw has moved it down."""
    mouth, chin = view.looks.mouth_y[:, None], view.looks.head_ry[:, None]
    return view.y - JAW * view.pose.opening[:, None] * ((view.y - mouth) / (chin - mouth)).clamp(0, 1)


def _rear_place(view: _View) -> tuple[Tensor, Tensor]:
    """Hair behind the head follows it, the shoulders hardly: each pixel's place in the rear layer."""
    x, y = (v.flatten()[None] for v in picture_grid(*view.size, view.x.device))
    follow = (1 - (y - 0.2) / 0.6).clamp(0.12, 1)
    dx, dy = (view.pose.x - 0.05 * view.pose.yaw)[:, None] * follow, view.pose.y[:, None] * follow
    turn = view.pose.roll[:, None] * follow
    x, y = x - dx, y - dy - PIVOT
    return x + turn * y, y - turn * x + PIVOT


def _sample(layers: Tensor, x: Tensor, y: Tensor, span: float, batch: int) -> Tensor:
    """Layers [B,C,s,s] seen at the places [N,H*W]: [N,C,H*W]."""
    grid = torch.stack([x, y], dim=-1) / span
    seen = F.grid_sample(layers, grid.unflatten(0, (batch, -1)), mode="bilinear", align_corners=False)
    return seen.transpose(1, 2).flatten(0, 1)


def _features(rgb: Tensor, view: _View) -> tuple[Tensor, Tensor, Tensor]:
    """Eyes, brows and mouth on [N,3,H*W]; the open parts' coverage [N,3,H*W] and their places [N,3,2]."""
    looks, pose = view.looks, view.pose
    middle = (MAX_OPENING * 0.5 * pose.opening) * 0.5
    spots = [(torch.zeros_like(pose.x), looks.mouth_y), (-looks.eye_x, looks.eye_y), (looks.eye_x, looks.eye_y)]
    places = torch.stack([place(looks, pose, x, y) for x, y in spots], dim=1)
    places[:, 0, 1] += middle
    open_ = torch.zeros_like(rgb)
    for index, (at_x, at_y) in enumerate(spots):
        span = EYE_WINDOW if index else MOUTH_WINDOW
        raised = 0.05 if index else 0.0  # the eye's window holds the brow too
        pixels = _window(places[:, index] - places.new_tensor([0.0, raised]), pose.scale, span, view.size)
        x, y = (v.gather(1, pixels.flatten(1)).view(pixels.shape) for v in (view.x, view.y))
        x, y = x - at_x[:, None, None], y - at_y[:, None, None]
        flat = pixels.flatten(1)[:, None].expand(-1, 3, -1)
        patch = rgb.gather(2, flat).unflatten(2, pixels.shape[1:])
        if index:
            side = -1.0 if index == 1 else 1.0
            patch, mask = draw_eye(patch, x * side, y, side, view.pixel, looks, pose)
        else:
            patch, mask = draw_mouth(patch, x, y, view.pixel, looks, pose)
        rgb = rgb.scatter_(2, flat, patch.flatten(2))
        open_[:, index].scatter_(1, flat[:, 0], mask.flatten(1))
    return rgb, open_, places


def _window(centre: Tensor, scale: Tensor, span: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Flat indices of the pixels around places [N,2], all inside the picture: [N,h,w]."""
    side = min(size)
    largest = float(scale.max())
    extent = [min(length, int(part * side / (2 * VIEW) * largest)) for part, length in zip(span, size, strict=True)]
    corner = []
    for axis, length in ((1, 0), (0, 1)):
        middle = centre[:, axis] * side / (2 * VIEW) + size[length] / 2
        corner.append((middle - extent[length] / 2).round().long().clamp(0, size[length] - extent[length]))
    rows = corner[0][:, None] + torch.arange(extent[0], device=centre.device)
    columns = corner[1][:, None] + torch.arange(extent[1], device=centre.device)
    return rows[:, :, None] * size[1] + columns[:, None]
