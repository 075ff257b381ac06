"""How well the measurer measures: held-out drawn people, whose poses are known, in pictures good and bad."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...shapes import FRAMES_PER_SECOND
from ..chance import generator_of
from .examples import blurred
from .geometry import Measures
from .identity import Identity
from .measurer import Measurer
from .metrics import correlation, head_speed, nose
from .subjects import Cast

SECONDS = 4
COURSES = (*Measures._fields, "nose_x", "nose_y")
"""What is compared; the nose's place is in percent of the picture's short side."""


class Accuracy(NamedTuple):
    """Of one condition: per measure the correlation of measured and true course (mean over subjects, and the least)
    and the mean error; the mean identity distance to the own portrait; measured head motion over the true one."""

    correlation: dict[str, float]
    least: dict[str, float]
    error: dict[str, float]
    identity: float
    head_motion: float


def blur(sigma: float) -> Callable[[Tensor], Tensor]:
    """Frames [3,T,H,W] blurred by so many pixels."""
    return lambda frames: blurred(frames.transpose(0, 1), torch.full((frames.shape[1],), sigma)).transpose(0, 1)


def noise(sigma: float) -> Callable[[Tensor], Tensor]:
    """Frames with noise, of black 0 to white 2."""
    return lambda frames: frames + sigma * torch.randn(frames.shape, generator=generator_of("accuracy"))


def tint(amount: float) -> Callable[[Tensor], Tensor]:
    """Frames with more red and less blue."""
    gain = torch.tensor([1 + amount, 1.0, 1 - amount])[:, None, None, None]
    return lambda frames: frames * gain


CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clean": lambda frames: frames,
    "blurred by 1 px": blur(1.0),
    "blurred by 2 px": blur(2.0),
    "noise of 0.1": noise(0.1),
    "tinted by 10 %": tint(0.1),
}


def accuracy(measurer: Measurer, cast: Cast, subjects: int, change: Callable[[Tensor], Tensor]) -> Accuracy:
    """The measurer on `subjects` of a cast (the first `SECONDS` of each), their frames changed."""
    index = torch.arange(SECONDS * FRAMES_PER_SECOND)
    estimates: list[Measures] = []
    true: list[Measures] = []
    distances: list[float] = []
    for number in range(subjects):
        subject = cast.subject(number)
        frames = change(subject.drawn(index)).clamp(-1, 1)
        estimates.append(measurer.measure(frames))
        true.append(Measures.true(subject.take.looks, subject.take.pose.map(lambda values: values[index])))
        portrait = Identity.of(subject.portrait[0], measurer.measure(subject.portrait[0]))
        distances.append(float(portrait.distance(frames, estimates[-1]).mean()))
    return _compared(estimates, true, sum(distances) / subjects)


def _compared(estimates: list[Measures], true: list[Measures], identity: float) -> Accuracy:
    pairs = [(_courses(a), _courses(b)) for a, b in zip(estimates, true, strict=True)]
    correlations = {
        name: torch.tensor([correlation(a[name], b[name]) for a, b in pairs if b[name].std() > 1e-6])
        for name in pairs[0][0]
    }
    errors = {name: float(torch.stack([(a[name] - b[name]).abs().mean() for a, b in pairs]).mean()) for name in COURSES}
    mean, least = ({name: float(pick(v)) for name, v in correlations.items()} for pick in (torch.mean, torch.min))
    measured, moved = (sum(float(head_speed(each).mean()) for each in side) for side in (estimates, true))
    return Accuracy(mean, least, errors, identity, measured / moved)


def _courses(measures: Measures) -> dict[str, Tensor]:
    """The measures and where the nose's tip is seen, by name, [T] each."""
    frames = len(measures.opening)
    tip_x, tip_y = nose(Measures(*(values.expand(frames) for values in measures))).T
    return {**{name: v.expand(frames) for name, v in measures._asdict().items()}, "nose_x": tip_x, "nose_y": tip_y}


def report(conditions: dict[str, Accuracy]) -> str:
    """A table: mean and least correlation of each course in each condition, the mean error in the first; the rest."""
    width = max(map(len, conditions)) + 4
    lines = [f"{'':<12}{'mean error':>12}" + "".join(f"{name:>{width}}" for name in conditions)]
    first = next(iter(conditions.values()))
    for name in COURSES:
        cells = [f"{each.correlation[name]:.3f} ({each.least[name]:.3f})" for each in conditions.values()]
        lines.append(f"{name:<12}{first.error[name]:>12.4f}" + "".join(f"{cell:>{width}}" for cell in cells))
    for name in ("identity", "head_motion"):
        lines.append(f"{name:<24}" + "".join(f"{getattr(each, name):>{width}.2f}" for each in conditions.values()))
    return "\n".join(lines)
