"""What a frame of a face shows, in numbers, and where a held head shows its places: the inverse of `render.py`.

N frames, P places on the head. Lengths as in `looks.py`: a picture's short side is 1.64, its middle is 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..faces import VIEW
from ..features import Pose
from ..looks import Looks
from ..render import DEPTH, JAW, PIVOT

HEAD_WIDTH, HEAD_HEIGHT = 0.36, 0.465
"""Half width and half height of an average head."""
MOUTH_Y, MOUTH_WIDTH = 0.243, 0.10
"""Of an average mouth: its place below the head's middle, its half width."""
EYE_X, EYE_Y, EYE_HEIGHT = 0.15, -0.045, 0.047
"""Of an average eye."""


class Measures(NamedTuple):
    """What a frame shows, [N] each.

    x, y of the head's middle; size, its width (1: average); roll, yaw and pitch in radians; opening of the mouth 0..1
    as in `mouth.py`; mouth, its width (1: average); eyes, their opening (1: average); gaze to
    the side, -1..1 (up and down it moves the iris by half a pixel: not to be measured).
    """

    x: Tensor
    y: Tensor
    size: Tensor
    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    opening: Tensor
    mouth: Tensor
    eyes: Tensor
    gaze: Tensor

    @classmethod
    def true(cls, looks: Looks, pose: Pose) -> "Measures":
        """What frames of N faces (or one) in N poses show."""
        return cls(
            x=looks.centre_x + pose.x,
            y=looks.centre_y + pose.y,
            size=looks.head_rx * pose.scale / HEAD_WIDTH,
            roll=pose.roll,
            yaw=pose.yaw,
            pitch=pose.pitch,
            opening=pose.opening,
            mouth=looks.mouth_w * (1 + 0.22 * pose.width) / MOUTH_WIDTH,
            eyes=pose.eyes * looks.eye_h / EYE_HEIGHT,
            gaze=pose.gaze_x,
        )


MIDDLE = Measures(*torch.tensor([0.0, -0.03, 1.0, 0.0, 0.0, 0.0, 0.35, 1.0, 0.9, 0.0]))
SPREAD = Measures(*torch.tensor([0.07, 0.05, 0.07, 0.1, 0.2, 0.15, 0.3, 0.2, 0.35, 0.5]))
"""Where the measures lie, and how far they spread."""
HELD = 6
"""The first measures say how the head is held."""


def standard(measures: Measures) -> Tensor:
    """Measures in units of their spread: [N,10]."""
    return (torch.stack(measures, dim=-1) - torch.stack(MIDDLE)) / torch.stack(SPREAD)


def plain(units: Tensor) -> Measures:
    """The inverse of `standard`; measures that are missing at the end are taken as average."""
    missing = len(Measures._fields) - units.shape[-1]
    return Measures(*(F.pad(units, (0, missing)) * torch.stack(SPREAD) + torch.stack(MIDDLE)).unbind(-1))


def where_seen(x_P: Tensor, y_P: Tensor, measures: Measures) -> Tensor:
    """Where N frames show places of the head, given from its middle: [N,P,2] as x, y from the picture's middle."""
    column = Measures(*(values[:, None] for values in measures))
    sunk = JAW * column.opening * ((y_P - MOUTH_Y) / (HEAD_HEIGHT - MOUTH_Y)).clamp(0, 1)
    lift = DEPTH * (1 - (x_P / HEAD_WIDTH) ** 2 - (y_P / HEAD_HEIGHT) ** 2).clamp_min(0)
    x = (x_P + column.yaw * lift) * column.size
    y = (y_P + sunk + column.pitch * lift - PIVOT) * column.size
    cos, sin = column.roll.cos(), column.roll.sin()
    return torch.stack([x * cos - y * sin + column.x, x * sin + y * cos + PIVOT + column.y], dim=-1)


def look_up(images: Tensor, at: Tensor) -> Tensor:
    """Colours of images [N,3,H,W] at points [N,P,2] from the picture's middle: [N,3,P]."""
    height, width = images.shape[-2:]
    reach = at.new_tensor([width, height]) / min(height, width) * VIEW
    return F.grid_sample(images, (at / reach)[:, None], padding_mode="border", align_corners=False)[:, :, 0]
