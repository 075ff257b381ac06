"""The whole evaluation: entrants play the same subjects from the same seeds; scores, their spread, and their course.

Beside the entrants stand two bounds: `drawn`, the generator's own frames through the VAE and colour step, and
`mismatched`, those frames held against the next subject's speech and face.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, pstdev
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...shapes import FRAMES_PER_SECOND
from ..chance import generator_of
from ..looks import draw_looks
from ..mouth import Mouth
from ..render import render
from .course import Course
from .entrants import DRAWN, Entrant
from .examples import any_poses
from .identity import Identity
from .measurer import load_measurer
from .metrics import Scores, Target, score
from .picture import Moments, texture
from .rollout import Job, Outcome, run_all
from .subjects import Cast

T = TypeVar("T")

MISMATCHED = "mismatched"
DRAWN_FRAMES = 100 * FRAMES_PER_SECOND
SCALE_FACES = 24
"""Faces, drawn in four poses each, whose variety is the unit of the picture distance."""


@dataclass(frozen=True)
class Protocol:
    """What is measured: `faces` subjects, each from `seeds` seeds of noise, in `workers` processes."""

    cast: Cast
    faces: int = 4
    seeds: int = 2
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def of(self, entrant: Entrant) -> "Protocol":
        """As it is for an entrant: what is drawn knows no noise and does not drift, so one seed and less time do."""
        if entrant.model != DRAWN:
            return self
        return replace(self, cast=replace(self.cast, frames=min(self.cast.frames, DRAWN_FRAMES)), seeds=1)

    def jobs(self, entrant: Entrant) -> list[Job]:
        """All streams of an entrant."""
        make = partial(Job, entrant, self.cast, device=self.device, dtype=self.dtype)
        return [make(subject=face, seed=seed) for face in range(self.faces) for seed in range(self.seeds)]

    def targets(self, scale: Tensor) -> list[Target]:
        """What each subject should show."""
        subjects = map(self.cast.subject, range(self.faces))
        return [Target(subject.take.mouth, subject.texture(), scale) for subject in subjects]


@dataclass(frozen=True)
class Row:
    """An entrant's streams: the scores of each, of each of its windows, what was seen and what was wanted."""

    name: str
    scores: list[Scores]
    windows: list[list[Scores]]
    outcomes: list[Outcome]
    targets: list[Target]

    @classmethod
    def of(cls, name: str, outcomes: list[Outcome], targets: list[Target]) -> "Row":
        """From the streams and, for each, what it should show."""
        pairs = list(zip((outcome.course for outcome in outcomes), targets, strict=True))
        return cls(name, [score(*pair) for pair in pairs], [_windows(*pair) for pair in pairs], outcomes, targets)

    def spread(self, metric: str) -> tuple[float, float]:
        """Mean and deviation of a score over the streams."""
        values = [getattr(scores, metric) for scores in self.scores]
        return fmean(values), pstdev(values)

    @property
    def drift(self) -> list[float]:
        """Mean identity distance in the last window less that in the first, of each stream."""
        return [windows[-1].identity - windows[0].identity for windows in self.windows]

    @property
    def growth(self) -> float:
        """Mean identity distance in the last windows over that in the first."""
        first, last = (fmean(windows[place].identity for windows in self.windows) for place in (0, -1))
        return last / max(first, 1e-6)

    @property
    def seconds_per_second(self) -> float:
        """Seconds of processor time for a second of video, measuring included."""
        frames = sum(len(outcome.course) for outcome in self.outcomes)
        return sum(outcome.seconds for outcome in self.outcomes) * FRAMES_PER_SECOND / max(1, frames)

    def by_second(self, series: str) -> list[float]:
        """Mean of a series of `Course` over the streams, for each full second."""
        courses = torch.stack([getattr(outcome.course, series) for outcome in self.outcomes])
        seconds = courses.shape[1] // FRAMES_PER_SECOND
        means = courses[:, : seconds * FRAMES_PER_SECOND].unflatten(1, (seconds, -1)).mean((0, 2))
        return [round(float(mean), 4) for mean in means]

    def record(self) -> dict[str, Any]:
        """Everything but courses and pictures, for a JSON file."""
        summary = dict(zip(("mean", "deviation"), zip(*map(self.spread, Scores._fields), strict=True), strict=True))
        return {
            "name": self.name,
            **{key: dict(zip(Scores._fields, values, strict=True)) for key, values in summary.items()},
            "drift": self.drift,
            "growth": self.growth,
            "seconds_per_second": self.seconds_per_second,
            "streams": [scores._asdict() for scores in self.scores],
            "by_second": {name: self.by_second(name) for name in ("eyes", "brows", "mouth", "hairline", "detail")},
            "windows": [[scores._asdict() for scores in windows] for windows in self.windows],
        }


def texture_scale(size: tuple[int, int]) -> Tensor:
    """How much texture features [K] differ between frames of different drawn people."""
    looks = draw_looks([("scale", face) for face in range(SCALE_FACES)])
    frames = render(looks, any_poses(SCALE_FACES, 4, generator_of("scale")), *size).frames
    moments = Moments()
    moments.add(texture(frames.transpose(0, 1)))
    return moments.deviation


def evaluate(
    entrants: Sequence[Entrant], protocol: Protocol, done: Callable[[Outcome], object] = lambda _: None
) -> list[Row]:
    """A row for each entrant, then `drawn` and `mismatched`. `done` is called after each stream."""
    scale = texture_scale(protocol.cast.size)
    rows: list[Row] = []
    for entrant in (*entrants, Entrant(DRAWN)):
        own = protocol.of(entrant)
        targets, jobs, outcomes = own.targets(scale), own.jobs(entrant), []
        for outcome in run_all(jobs, own.workers):
            outcomes.append(outcome)
            done(outcome)
        rows.append(Row.of(str(entrant), outcomes, [targets[job.subject] for job in jobs]))
    return [*rows, _mismatched(rows[-1], protocol.cast)]


def _windows(course: Course, target: Target) -> list[Scores]:
    """Scores of each window; what remains at the end belongs to the last."""
    size = course.window
    starts = range(0, max(1, len(course) - size + 1), size)
    parts = [(start, len(course) if start == starts[-1] else start + size) for start in starts]
    return [
        score(course.part(*part), target._replace(mouth=Mouth(*(values[slice(*part)] for values in target.mouth))))
        for part in parts
    ]


def _mismatched(drawn: Row, cast: Cast) -> Row:
    """Each drawn stream against the next subject; with one subject, against its own speech backwards."""
    if len(drawn.targets) == 1:
        backwards = Mouth(*(values.flip(0) for values in drawn.targets[0].mouth))
        return Row.of(MISMATCHED, drawn.outcomes, [drawn.targets[0]._replace(mouth=backwards)])
    measurer = load_measurer()
    portraits = [cast.subject(face).portrait[0] for face in range(len(drawn.targets))]
    measures = [measurer.measure(portrait) for portrait in portraits]
    own = list(zip(portraits, measures, strict=True))
    others = [Identity.of(*other).distance(*one) for one, other in zip(own, _rotated(own), strict=True)]
    row = Row.of(MISMATCHED, drawn.outcomes, _rotated(drawn.targets))
    scores = [one._replace(identity=float(other)) for one, other in zip(row.scores, others, strict=True)]
    return replace(row, scores=scores)


def _rotated(items: list[T]) -> list[T]:
    """The next item in the place of each."""
    return [*items[1:], items[0]]
