"""The measurer: small networks that read mouth, head and eyes off single frames.

Fixed, and never seen by training or correction: it learned from drawn faces of its own (`fitting.py`), with exact
labels, under blur, noise, ghosts and false colours, so that it holds on generated frames. One network finds the head
in a small picture; a second looks at the head set upright and says what the first missed; two more look at the mouth
and the eyes of the head set upright.

N frames.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from .geometry import EYE_X, HELD, MOUTH_Y, Measures, look_up, plain, where_seen

WEIGHTS = Path(__file__).with_name("measurer.safetensors")
SIDE = 96
"""Pixels of a side of what is looked at: the middle square of a frame."""
FIND_SIDE = 48
"""Pixels of a side of the picture in which the head is sought."""


class View(NamedTuple):
    """A rectangle of the upright head: its middle and half its size, and its pixels down and across."""

    x: float
    y: float
    half_width: float
    half_height: float
    rows: int
    columns: int

    def cut(self, images: Tensor, held: Measures) -> Tensor:
        """The rectangle of N heads that are held so, from images [N,3,H,W]: [N,3,rows,columns]."""
        across, down = ((torch.arange(count) + 0.5) / count * 2 - 1 for count in (self.columns, self.rows))
        y, x = torch.meshgrid(self.y + down * self.half_height, self.x + across * self.half_width, indexing="ij")
        shut = held._replace(opening=torch.zeros_like(held.opening))
        return look_up(images, where_seen(x.flatten(), y.flatten(), shut)).unflatten(2, (self.rows, self.columns))


HEAD = View(0.0, 0.02, 0.48, 0.52, 48, 48)
MOUTH = View(0.0, MOUTH_Y + 0.05, 0.2, 0.18, 32, 32)
EYES = View(0.0, -0.055, EYE_X + 0.13, 0.13, 24, 48)


class Measurer(nn.Module):
    """Reads `Measures` off frames. Between its networks measures are in units of their spread (`standard`)."""

    def __init__(self) -> None:
        super().__init__()
        face, part = ((2, 2, 1, 2), (32, 48, 64, 64)), ((1, 2, 2, 2), (16, 32, 48, 64))
        self.find = _reader(*face, FIND_SIDE**2, HELD)
        self.refine = _reader(*face, HEAD.rows * HEAD.columns, HELD)
        self.mouth = _reader(*part, MOUTH.rows * MOUTH.columns, 2)
        self.eyes = _reader(*part, EYES.rows * EYES.columns, 2)

    @torch.inference_mode()
    def measure(self, frames: Tensor) -> Measures:
        """Measures of frames [3,N,H,W] in -1..1 of any size, on the CPU."""
        images = resized(middle(frames).float().cpu(), SIDE)
        estimate = self.find(resized(images, FIND_SIDE))
        estimate = estimate + self.refine(HEAD.cut(images, plain(estimate)))
        held = plain(estimate)
        return plain(
            torch.cat([estimate, self.mouth(MOUTH.cut(images, held)), self.eyes(EYES.cut(images, held))], dim=1)
        )


def _reader(strides: tuple[int, ...], widths: tuple[int, ...], pixels: int, outputs: int) -> nn.Sequential:
    """Images [N,3,h,w] of so many pixels to numbers [N,outputs], through convolutions of given strides and widths."""
    layers: list[nn.Module] = []
    for stride, channels, width in zip(strides, (3, *widths), widths, strict=False):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    spots = pixels // math.prod(strides) ** 2
    head = [nn.Conv2d(widths[-1], 32, 1), nn.Flatten(), nn.Linear(32 * spots, 64), nn.ReLU(), nn.Linear(64, outputs)]
    return nn.Sequential(*layers, *head)


def middle(frames: Tensor) -> Tensor:
    """The middle square of frames [3,N,H,W]: [N,3,side,side]."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, :, top : top + side, left : left + side].transpose(0, 1)


def resized(images: Tensor, side: int) -> Tensor:
    """Square images in another size: [N,3,side,side]."""
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def load_measurer(path: Path = WEIGHTS) -> Measurer:
    """The committed measurer, or another of its layout; the file is in half precision, the networks in float32."""
    measurer = Measurer()
    kept = {name: values.float() for name, values in load_file(path).items()}
    measurer.load_state_dict({**measurer.state_dict(), **kept})
    return measurer.eval().requires_grad_(False)
