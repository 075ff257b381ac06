"""What is measured of a rendered video: numbers of every frame while it is read, then one number a question.

T frames.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....shapes import FRAMES_PER_SECOND
from ...detection import Face
from ...mouth import mouth_of
from ..picture import mean_color
from .networks import Embedder, SyncJudge, SyncScores
from .render import Render
from .seams import Seams, seams_of
from .sync import Sync, lip_sync
from .views import EYES, LIPS, LOST, Follower

SERIES = (
    "eyes", "brows", "mouth", "hairline", "likeness", "sharpness", "eye_detail", "mouth_detail", "color", "change",
    "flicker", "eye_flicker", "mouth_flicker", "ground_flicker", "known", "x", "y", "similarity",
)  # fmt: skip
LATE_SECONDS = 50
"""Of the windows that drift is told from; halves of a shorter video."""
GROUND_FACES = 1.0
"""Faces to either side, above and below the face's box, beyond which the picture is ground."""


class Drift(NamedTuple):
    """From one part of a video to another: `likeness` lost (mean of eyes, brows, mouth and hairline), `color` gained
    (CIE76 to the reference), `sharpness` lost (share of the reference's)."""

    likeness: float
    color: float
    sharpness: float


class Scores(NamedTuple):
    """Of one video. eyes .. hairline: mean correlation of the reference's patches, found again nearby; likeness: their
    mean; sharpness, eye_detail, mouth_detail: fine detail over the reference's; flicker: how far frames are from going
    on as the two before went, percent of black to white, of the picture, eyes, mouth and ground (None: the face fills
    the picture); color: distance of the mean Lab colour to the reference's; head_motion: percent of the short side a
    second; lost: share of frames in which the upper face is not known again; similarity: see `networks.Embedder`.
    since_first_second: the last 50 s against the first second; since_first_window: against the first 50 s."""

    sync: Sync
    eyes: float
    brows: float
    mouth: float
    hairline: float
    likeness: float
    sharpness: float
    eye_detail: float
    mouth_detail: float
    flicker: float
    eye_flicker: float
    mouth_flicker: float
    ground_flicker: float | None
    color: float
    head_motion: float
    lost: float
    seams: Seams
    since_first_second: Drift
    since_first_window: Drift
    syncnet: SyncScores | None
    similarity: float | None


@dataclass
class Meter:
    """Measures a video's frames as they come, against its reference frame [3,1,H,W] in -1..1."""

    face: Face
    reference: Tensor
    syncnet: SyncJudge | None = None
    embedder: Embedder | None = None
    mouth: list[Tensor] = field(default_factory=list)
    _rows: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._follower = Follower.of(self.reference, self.face)
        fine = _fine(self.reference)
        still = torch.zeros(1, 2)
        self._fine = [fine.mean((1, 2)), *(_regional(fine, self.face, part, still) for part in (EYES, LIPS))]
        self._color = mean_color(self.reference)
        self._last = self.reference[:, :0]

    @torch.inference_mode()
    def add(self, frames: Tensor) -> None:
        """Measure the next frames [3,n,H,W] in -1..1."""
        offsets, known = self._follower.follow(frames)
        self.mouth.append(self._follower.mouth(frames, offsets))
        left_eye, right_eye, left_brow, right_brow, mouth, hairline = self._follower.likeness(frames, offsets)
        features = ((left_eye + right_eye) / 2, (left_brow + right_brow) / 2, mouth, hairline)
        fine = _fine(frames)
        detail = [fine.mean((1, 2)), *(_regional(fine, self.face, part, offsets) for part in (EYES, LIPS))]
        over = [own / first.clamp_min(1e-6) for own, first in zip(detail, self._fine, strict=True)]
        if self.syncnet is not None:
            self.syncnet.add(frames, offsets)
        similarity = torch.full_like(known, torch.nan)
        if self.embedder is not None:
            similarity = self.embedder.similarity(frames, offsets)
        color = (mean_color(frames) - self._color).norm(dim=-1)
        series = (*features, torch.stack(features).mean(0), *over, color, *self._changes(frames, offsets), known,
                  *offsets.T, similarity)  # fmt: skip
        self._rows.append(torch.stack(series))

    def _changes(self, frames: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        """The change from the frame before, and flicker: of all, of eyes, mouth and ground; in percent."""
        first = frames[:, :1].expand(-1, 2, -1, -1) if self._last.shape[1] == 0 else self._last
        joined = torch.cat([first, frames], dim=1)
        self._last = joined[:, -2:].clone()
        change = 50 * (frames - joined[:, 1:-1]).abs().mean((0, 2, 3))
        bend = 25 * (joined[:, :-2] + frames - 2 * joined[:, 1:-1]).abs().mean(0)
        parts = (_regional(bend, self.face, part, offsets) for part in (EYES, LIPS))
        return change, bend.mean((1, 2)), *parts, _of_ground(bend, self.face)

    @property
    def courses(self) -> dict[str, Tensor]:
        """The series of all frames so far, [T] each."""
        return dict(zip(SERIES, torch.cat(self._rows, dim=1), strict=True))

    def scores(self, render: Render) -> Scores:
        """Of all frames, with the sound of their video."""
        courses = self.courses
        means = {name: float(values.mean()) for name, values in courses.items()}
        opening = mouth_of(render.sound, render.frames).opening
        place = torch.stack([courses["x"], courses["y"]], dim=1)
        speed = place.diff(dim=0).norm(dim=1).mean() * FRAMES_PER_SECOND * 100 / min(render.size)
        own: dict[str, Any] = {name: means[name] for name in SERIES if name in Scores._fields and name != "similarity"}
        own["ground_flicker"] = _number(courses["ground_flicker"])
        return Scores(
            **own,
            sync=lip_sync(torch.cat(self.mouth), opening),
            head_motion=float(speed),
            lost=float((courses["known"] < LOST).float().mean()),
            seams=seams_of(courses["change"]),
            since_first_second=_drift(courses, slice(0, FRAMES_PER_SECOND)),
            since_first_window=_drift(courses, slice(0, _window(render.frames))),
            syncnet=None if self.syncnet is None else self.syncnet.scores(render.sound),
            similarity=_number(courses["similarity"]),
        )


def _window(frames: int) -> int:
    return min(LATE_SECONDS * FRAMES_PER_SECOND, frames // 2)


def _drift(courses: dict[str, Tensor], early: slice) -> Drift:
    late = slice(len(courses["known"]) - _window(len(courses["known"])), None)

    def gain(name: str) -> float:
        return float(courses[name][late].mean() - courses[name][early].mean())

    return Drift(-gain("likeness"), gain("color"), -gain("sharpness"))


def _number(course: Tensor) -> float | None:
    """The mean of a series, None of one that nobody measured."""
    return None if bool(course.isnan().any()) else float(course.mean())


def _fine(frames: Tensor) -> Tensor:
    """Size of the luma's second differences in frames [3,N,H,W]: [N,H,W], 0 along the border."""
    luma = frames.mean(0)
    fine = torch.zeros_like(luma)
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    fine[:, 1:-1, 1:-1] = (luma[:, 1:-1, 1:-1] - around / 4).abs()
    return fine


def _regional(values: Tensor, face: Face, part: tuple[float, float, float, float], offsets: Tensor) -> Tensor:
    """The mean of `values` [N,H,W] in a part of the face that has moved by `offsets` [N,2]: [N]."""
    height, width = values.shape[1:]
    (left, top), (right, bottom) = face.at(*part[:2]), face.at(*part[2:])
    means: list[Tensor] = []
    for plane, (x, y) in zip(values, offsets.round().tolist(), strict=True):
        rows = slice(*_span(top + y, bottom + y, height))
        columns = slice(*_span(left + x, right + x, width))
        means.append(plane[rows, columns].mean())
    return torch.stack(means)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels from `low` to `high` that lie in the picture, at least one."""
    start = min(max(0, round(low)), size - 1)
    return start, max(start + 1, min(size, round(high)))


def _of_ground(values: Tensor, face: Face) -> Tensor:
    """The mean of `values` [N,H,W] away from the face, NaN where that is less than a tenth of the picture: [N]."""
    ground = torch.ones(values.shape[1:], dtype=torch.bool)
    (left, top), (right, bottom) = face.at(-GROUND_FACES / 2, -GROUND_FACES / 2), face.at(1 + GROUND_FACES / 2, 99)
    ground[slice(*_span(top, bottom, len(ground))), slice(*_span(left, right, ground.shape[1]))] = False
    if float(ground.float().mean()) < 0.1:
        return torch.full((len(values),), torch.nan)
    return values[:, ground].mean(1)


def as_record(scores: Any) -> Any:
    """Scores and what is in them, for a JSON file."""
    if hasattr(scores, "_asdict"):
        return {name: as_record(value) for name, value in scores._asdict().items()}
    if isinstance(scores, tuple):
        return [as_record(value) for value in scores]
    return round(scores, 5) if isinstance(scores, float) else scores
