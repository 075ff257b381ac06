"""Lip sync of any face, by a measure that needs no weights: how well the mouth's region foretells the sound.

After Slaney and Covell, "FaceSync: A linear operator for measuring synchronization of video facial images and audio
tracks" (NIPS 2000): a linear function of the mouth's pixels is fitted to the course of the sound, here to the opening
that `mouth.py` hears in it. Each fifth of the video is foretold by what was fitted to the rest, so that a function of
many pixels cannot score by learning by heart; and that for each lag, so that lag and score come of the same curve.

T frames, K cells of the mouth.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..metrics import correlation

MOST_LAG = 15
"""Frames by which sound and mouth are moved against each other, as SyncNet's authors do."""
FOLDS = 5
COMPONENTS = 12
"""Of the mouth's course, at most, and never more than one for so many frames:"""
FRAMES_A_COMPONENT = 15
TREND = 101
"""Frames over whose mean a course is taken: slower changes are light and drift, not speech."""
STILL = 0.004
"""Deviation of the mouth's luma, of black to white as 2, below which it does not move: half a grey level."""
RIDGE = 0.01
VOICED, SILENT = 0.2, 0.02
"""Openings from which on somebody speaks, and below which nobody does."""


class Sync(NamedTuple):
    """score: correlation of the foretold and the heard opening at the best lag (1: all of it; about 0: none); lag: that
    lag in frames, above 0 where the mouth is late; unshifted: the correlation at lag 0; confidence: the score less the
    curve's median, as SyncNet's; curve: from -lag to lag; silent_motion: how much the mouth moves where nobody speaks,
    over that where somebody does (None: one of the two does not occur)."""

    score: float
    lag: int
    unshifted: float
    confidence: float
    curve: tuple[float, ...]
    silent_motion: float | None


def lip_sync(mouth_TK: Tensor, opening_T: Tensor) -> Sync:
    """Of a mouth's course and the opening of its sound."""
    reach = min(MOST_LAG, len(opening_T) // 8)
    moving, heard = _without_trend(mouth_TK.double()), _without_trend(opening_T.double()[:, None])[:, 0]
    courses = _components(moving)
    if courses is None or float(heard.std()) < 1e-3:
        curve = [0.0] * (2 * reach + 1)
    else:
        curve = [_foretold(courses, heard, lag, reach) for lag in range(-reach, reach + 1)]
    best = max(range(len(curve)), key=lambda place: (curve[place], -abs(place - reach)))
    middle = float(torch.tensor(curve).median())
    silent = silent_motion(mouth_TK, opening_T)
    return Sync(curve[best], best - reach, curve[reach], curve[best] - middle, tuple(curve), silent)


def silent_motion(mouth_TK: Tensor, opening_T: Tensor) -> float | None:
    """Mean change of the mouth between frames where nobody speaks, over that where somebody does."""
    change = mouth_TK.diff(dim=0).abs().mean(1)
    quiet, loud = opening_T[1:] < SILENT, opening_T[1:] > VOICED
    if not quiet.any() or not loud.any() or float(change[loud].mean()) < STILL / 10:
        return None
    return float(change[quiet].mean() / change[loud].mean())


def _without_trend(course_TK: Tensor) -> Tensor:
    window = min(TREND, len(course_TK) // 2 * 2 - 1)
    trend = F.avg_pool1d(course_TK.T[None], window, 1, window // 2, count_include_pad=False)[0].T
    return course_TK - trend


def _components(course_TK: Tensor) -> Tensor | None:
    """The course in its principal components, [T,C]; None where the mouth does not move."""
    if float(course_TK.square().mean().sqrt()) < STILL:
        return None
    count = max(2, min(COMPONENTS, len(course_TK) // FRAMES_A_COMPONENT))
    _, _, axes = torch.linalg.svd(course_TK, full_matrices=False)
    return course_TK @ axes[:count].T


def _foretold(courses_TC: Tensor, heard_T: Tensor, lag: int, reach: int) -> float:
    """Correlation of what the mouth foretells of the sound `lag` frames before it with what is heard."""
    frames = len(heard_T) - 2 * reach
    sound = heard_T[reach : reach + frames]
    seen = courses_TC[reach + lag : reach + lag + frames]
    told = torch.empty_like(sound)
    for part in torch.arange(frames).tensor_split(FOLDS):
        rest = torch.ones(frames, dtype=torch.bool)
        rest[part] = False
        told[part] = _fitted(seen[rest], sound[rest], seen[part])
    return correlation(sound, told)


def _fitted(seen_TC: Tensor, sound_T: Tensor, others_TC: Tensor) -> Tensor:
    """Ridge regression of sound on what is seen, applied to others: [T]."""
    middle, level = seen_TC.mean(0), sound_T.mean()
    centred = seen_TC - middle
    square = centred.T @ centred
    damping = RIDGE * square.diagonal().mean().clamp_min(1e-12) * torch.eye(len(square), dtype=square.dtype)
    weights = torch.linalg.solve(square + damping, centred.T @ (sound_T - level))
    return (others_TC - middle) @ weights + level
