"""What a course says of a stream: one number a question.

T frames at 25 per second.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...shapes import FRAMES_PER_SECOND
from ..mouth import Mouth
from .course import Course
from .geometry import Measures, where_seen
from .picture import Moments, picture_distance

MAX_LAG = 10
"""Frames by which sound and mouth are shifted against each other in search of the best fit."""
SHUT_SHARE = 0.5
"""Of their usual opening: eyes below it are closed."""
BLINK_FRAMES = 15
"""Eyes closed for longer do not blink."""
LIVELY_SMOOTHING = 5
"""Frames over which the head's course is smoothed before its speed is taken: the measurer's error is not motion."""

LATE = 2 * FRAMES_PER_SECOND
"""Frames at a stream's end that `eyes_late` and `hairline_late` are of."""


class Scores(NamedTuple):
    """The answers.

    lip_sync: correlation of measured mouth opening and the sound's, at the best lag. lip_lag: that lag in frames,
    above 0 where the mouth is late. lip_sync_unshifted: at lag 0. width_sync: of mouth width, at the best lag.
    identity, sharpness, color: means of `Course`. head_motion: mean speed of the nose's tip in percent of the
    picture's short side a second. gaze_motion: mean change of gaze a second (1: from straight ahead to one side).
    blinks: a minute. picture: distance of texture statistics to the drawn frames'. border_motion: mean change between
    frames at chunk borders over that inside chunks. border_jump: the same of the nose's speed. eyes, brows,
    mouth, hairline, detail, flicker, features: means of `Course`; eyes_late, hairline_late: means of the last two
    seconds.
    """

    lip_sync: float
    lip_lag: float
    lip_sync_unshifted: float
    width_sync: float
    identity: float
    sharpness: float
    color: float
    head_motion: float
    gaze_motion: float
    blinks: float
    picture: float
    border_motion: float
    border_jump: float
    eyes: float
    eyes_late: float
    brows: float
    mouth: float
    hairline: float
    hairline_late: float
    detail: float
    flicker: float
    features: float


class Target(NamedTuple):
    """What a stream is held against: the mouth of its sound [T], texture statistics of the drawn face and the scale
    [K] of their differences."""

    mouth: Mouth
    texture: Moments
    scale: Tensor


def score(course: Course, target: Target) -> Scores:
    """All scores of a course and what it should show."""
    measures = course.measures
    lag, synced = best_lag(target.mouth.opening, measures.opening)
    return Scores(
        lip_sync=synced,
        lip_lag=lag,
        lip_sync_unshifted=correlation(target.mouth.opening, measures.opening),
        width_sync=correlation(*shifted(target.mouth.width, measures.mouth, lag)),
        identity=float(course.identity.mean()),
        sharpness=float(course.sharpness.mean()),
        color=float(course.color.mean()),
        head_motion=float(head_speed(measures).mean()),
        gaze_motion=gaze_motion(measures),
        blinks=blinks_per_minute(measures.eyes),
        picture=picture_distance(course.texture, target.texture, target.scale),
        border_motion=at_borders(course.change, course.border),
        border_jump=at_borders(nose(measures).diff(dim=0, prepend=nose(measures)[:1]).norm(dim=1), course.border),
        eyes=float(course.eyes.mean()),
        eyes_late=float(course.eyes[-LATE:].mean()),
        brows=float(course.brows.mean()),
        mouth=float(course.mouth.mean()),
        hairline=float(course.hairline.mean()),
        hairline_late=float(course.hairline[-LATE:].mean()),
        detail=float(course.detail.mean()),
        flicker=float(course.flicker.mean()),
        features=float(course.features.mean()),
    )


def correlation(a_T: Tensor, b_T: Tensor) -> float:
    """Pearson's; 0 where one of them does not change."""
    a, b = a_T.double() - a_T.double().mean(), b_T.double() - b_T.double().mean()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 1e-9 else 0.0


def shifted(cause_T: Tensor, effect_T: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Both series where they overlap once the effect is taken `lag` frames later."""
    count = len(effect_T) - abs(lag)
    return cause_T[max(0, -lag) :][:count], effect_T[max(0, lag) :][:count]


def best_lag(cause_T: Tensor, effect_T: Tensor) -> tuple[int, float]:
    """By how many frames the effect comes later, and its correlation there."""
    reach = min(MAX_LAG, len(effect_T) // 4)
    lags = {lag: correlation(*shifted(cause_T, effect_T, lag)) for lag in range(-reach, reach + 1)}
    best = max(lags, key=lambda lag: (lags[lag], -abs(lag)))
    return best, lags[best]


def nose(measures: Measures) -> Tensor:
    """Where the tip of the nose is seen, in percent of the picture's short side: [T,2]."""
    return where_seen(torch.zeros(1), torch.zeros(1), measures)[:, 0] * (100 / 1.64)


def smoothed(values: Tensor, frames: int) -> Tensor:
    """[T,C] averaged over `frames` neighbouring frames: [T-frames+1,C]."""
    return F.avg_pool1d(values.T[None], min(frames, len(values)), stride=1)[0].T


def head_speed(measures: Measures) -> Tensor:
    """Speed of the nose's tip in percent of the picture's short side a second: [T - LIVELY_SMOOTHING]."""
    return smoothed(nose(measures), LIVELY_SMOOTHING).diff(dim=0).norm(dim=1) * FRAMES_PER_SECOND


def gaze_motion(measures: Measures) -> float:
    """Mean change of the gaze to the side, a second, while the eyes are open."""
    seen = ~shut(measures.eyes)
    change = measures.gaze.diff().abs()[seen[1:] & seen[:-1]]
    return float(change.mean() * FRAMES_PER_SECOND) if len(change) else 0.0


def shut(eyes_T: Tensor) -> Tensor:
    """Where the eyes are closed, measured against their usual opening: [T] of bool."""
    return eyes_T < SHUT_SHARE * eyes_T.quantile(0.75)


def blinks_per_minute(eyes_T: Tensor) -> float:
    """Closings of the eyes that end within `BLINK_FRAMES` frames, a minute."""
    closed = F.pad(shut(eyes_T).float(), (1, 1))
    starts, ends = (closed.diff() > 0).nonzero()[:, 0], (closed.diff() < 0).nonzero()[:, 0]
    return int((ends - starts <= BLINK_FRAMES).sum()) * 60 * FRAMES_PER_SECOND / len(eyes_T)


def at_borders(change_T: Tensor, border_T: Tensor) -> float:
    """Mean change in the frames that begin a chunk over that of all others; 1 without borders."""
    border = border_T[1:] > 0
    change = change_T[1:]
    if not border.any() or border.all():
        return 1.0
    return float(change[border].mean() / change[~border].mean().clamp_min(1e-6))
