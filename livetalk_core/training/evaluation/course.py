"""What a stream shows over time: a few numbers a frame, gathered while it is made. Frames are never kept.

T frames.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .details import Patches
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
    (0 in the first). border: whether a chunk begins with the frame. eyes, brows, mouth, hairline: how well the
    portrait's patches of them are found again (1: as they were). detail: in the eyes' and the mouth's patches, over the
    portrait's. flicker: how far a frame is from going on as the two before it went, in percent of black to white.
    features: distance of eyes, brows and mouth to the reference's.
    textures: by time, of `window` frames each.
    """

    measures: Measures
    identity: Tensor
    sharpness: Tensor
    color: Tensor
    change: Tensor
    border: Tensor
    eyes: Tensor
    brows: Tensor
    mouth: Tensor
    hairline: Tensor
    detail: Tensor
    flicker: Tensor
    features: Tensor
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


SERIES = ("identity", "sharpness", "color", "change", "border", "eyes", "brows", "mouth", "hairline", "detail",
          "flicker", "features")  # fmt: skip


@dataclass
class Meter:
    """Measures a stream's frames as they come, against its reference frame [3,1,H,W] in -1..1 and its `places` [P,2].

    `window` is the number of frames whose texture statistics are gathered together.
    """

    measurer: Measurer
    reference: Tensor
    places: Tensor
    window: int
    _rows: list[Tensor] = field(default_factory=list)
    _textures: list[Moments] = field(default_factory=list)
    _frames: int = 0

    def __post_init__(self) -> None:
        self._identity = Identity.of(self.reference, self.measurer.measure(self.reference))
        self._sharpness, self._color = sharpness(self.reference), mean_color(self.reference)
        self._patches = Patches.of(self.reference, self.places)
        self._last = self.reference[:, :0]

    @torch.inference_mode()
    def add(self, frames: Tensor, border: bool) -> None:
        """Measure the next frames [3,n,H,W]; `border`: a chunk begins with the first of them."""
        frames = frames.float().cpu()
        measures = self.measurer.measure(frames)
        first = frames[:, :1].expand(-1, 2, -1, -1)
        joined = torch.cat([self._last, frames] if self._frames else [first, frames], dim=1)
        before = joined[:, 1:-1]
        borders = torch.zeros(frames.shape[1])
        borders[0] = float(border)
        own = (
            self._identity.distance(frames, measures),
            sharpness(frames) / self._sharpness,
            (mean_color(frames) - self._color).norm(dim=-1),
            50 * (frames - before).abs().mean((0, 2, 3)),
            borders,
            *self._tracked(frames),
            25 * (joined[:, :-2] + frames - 2 * before).abs().mean((0, 2, 3)),
            self._identity.distance_of_features(frames, measures),
        )
        self._rows.append(torch.stack([*measures, *own]))
        self._add_texture(frames)
        self._last = joined[:, -2:].clone()
        self._frames += frames.shape[1]

    def _tracked(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Eyes, brows, mouth, hairline and detail of `Course`, for frames [3,n,H,W]."""
        correlations, detail = self._patches.find(frames)
        left_eye, right_eye, left_brow, right_brow, mouth, hairline = correlations
        features = detail[[0, 1, 4]].mean(0)
        return (left_eye + right_eye) / 2, (left_brow + right_brow) / 2, mouth, hairline, features

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
