"""What a stream shows over time: a few numbers a frame, gathered while it is made. Frames are never kept.

T frames.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .geometry import Measures
from .identity import Identity
from .measurer import Measurer
from .picture import Moments, mean_color, sharpness, texture

TEXTURE_EVERY = 5
"""Frames from one whose texture is gathered to the next."""


@dataclass(frozen=True)
class Course:
    """Of all frames of one stream, [T] each.

    identity: distance to the reference's person. sharpness: against the reference's (1: the same). color: distance of
    the mean Lab colour to the reference's. change: mean difference to the frame before, in percent of black to white
    (0 in the first). border: whether a chunk begins with the frame. textures: by time, of `window` frames each.
    """

    measures: Measures
    identity: Tensor
    sharpness: Tensor
    color: Tensor
    change: Tensor
    border: Tensor
    textures: list[Moments]
    window: int

    def __len__(self) -> int:
        return len(self.identity)

    def part(self, start: int, stop: int) -> "Course":
        """Frames [start, stop); of `textures` the windows that lie in them."""
        cut = {name: getattr(self, name)[start:stop] for name in SERIES}
        textures = self.textures[start // self.window : -(-stop // self.window)]
        return Course(Measures(*(v[start:stop] for v in self.measures)), **cut, textures=textures, window=self.window)

    @property
    def texture(self) -> Moments:
        """Of all frames together."""
        return sum(self.textures, Moments())


SERIES = ("identity", "sharpness", "color", "change", "border")


@dataclass
class Meter:
    """Measures a stream's frames as they come, against its reference frame [3,1,H,W] in -1..1.

    `window` is the number of frames whose texture statistics are gathered together.
    """

    measurer: Measurer
    reference: Tensor
    window: int
    _rows: list[Tensor] = field(default_factory=list)
    _textures: list[Moments] = field(default_factory=list)
    _frames: int = 0

    def __post_init__(self) -> None:
        self._identity = Identity.of(self.reference, self.measurer.measure(self.reference))
        self._sharpness, self._color = sharpness(self.reference), mean_color(self.reference)
        self._last = self.reference[:, :0]

    @torch.inference_mode()
    def add(self, frames: Tensor, border: bool) -> None:
        """Measure the next frames [3,n,H,W]; `border`: a chunk begins with the first of them."""
        frames = frames.float().cpu()
        measures = self.measurer.measure(frames)
        before = torch.cat([self._last if self._frames else frames[:, :1], frames[:, :-1]], dim=1)
        borders = torch.zeros(frames.shape[1])
        borders[0] = float(border)
        own = (
            self._identity.distance(frames, measures),
            sharpness(frames) / self._sharpness,
            (mean_color(frames) - self._color).norm(dim=-1),
            50 * (frames - before).abs().mean((0, 2, 3)),
            borders,
        )
        self._rows.append(torch.stack([*measures, *own]))
        self._add_texture(frames)
        self._last = frames[:, -1:].clone()
        self._frames += frames.shape[1]

    def _add_texture(self, frames: Tensor) -> None:
        numbers = torch.arange(self._frames, self._frames + frames.shape[1])
        for number in numbers[numbers % TEXTURE_EVERY == 0].tolist():
            while len(self._textures) <= number // self.window:
                self._textures.append(Moments())
            place = number - self._frames
            self._textures[-1].add(texture(frames[:, place : place + 1]))

    def course(self) -> Course:
        """Everything so far."""
        rows = torch.cat(self._rows, dim=1)
        count = len(Measures._fields)
        own = dict(zip(SERIES, rows[count:], strict=True))
        return Course(Measures(*rows[:count]), **own, textures=self._textures, window=self.window)
