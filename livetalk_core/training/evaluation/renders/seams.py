"""Seams: frames in which a video changes more than around them, at regular distances where it is made in chunks.

T frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ....shapes import FRAMES_PER_SECOND

PERIODS = range(8, 129)
"""Frames of a chunk that are looked for."""
AROUND = 9
"""Frames whose median says what is usual around one."""
CLEAR = 5.0
"""Deviations by which a regular place must stand out to be called a seam: of some ten thousand tried, chance reaches
four."""
JUMP, LEAST_JUMP = 4.0, 2.0
"""Times as much change as around it, and percent of black to white: a cut, or a jump."""
LEAST_SEAMS = 3
LEAST_CHANGE = 0.05
"""Percent of black to white; below it nothing moves, and quotients say nothing."""


class Seams(NamedTuple):
    """period: frames from seam to seam, None where no regular one stands out; liveliness: mean change there over that
    around it (1: no seam); jumps: single frames that change `JUMP` times as much as those around them, and by
    `LEAST_JUMP`, a minute."""

    period: int | None
    liveliness: float
    jumps: float


def seams_of(change_T: Tensor) -> Seams:
    """Of the changes from frame to frame, in percent; the first, which follows nothing, does not count."""
    change = change_T[1:].double()
    usual = _median(change)
    excess = (change + LEAST_CHANGE) / (usual + LEAST_CHANGE)
    jumps = float(((excess > JUMP) & (change > LEAST_JUMP)).double().mean()) * 60 * FRAMES_PER_SECOND
    score, period, phase = max(_best_phase(excess.log(), period) for period in PERIODS)
    if score < CLEAR:
        return Seams(None, 1.0, jumps)
    return Seams(period, float(excess[phase::period].mean()), jumps)


def _best_phase(excess: Tensor, period: int) -> tuple[float, int, int]:
    """The most deviations that the places `phase`, `phase` + `period`, ... stand out by; the period; the phase.

    Told by their lower quartile: all seams stand out, a few blinks do not make one. A period's multiples score less,
    as they have fewer places.
    """
    count = len(excess) // period
    if count < LEAST_SEAMS:
        return 0.0, period, 0
    places = excess[: count * period].unflatten(0, (count, period))
    centre = excess.median()
    spread = (excess - centre).abs().median() * 1.4826 + 1e-3
    scores = (places.quantile(0.25, dim=0) - centre) / spread * count**0.5
    return float(scores.max()), period, int(scores.argmax())


def _median(values: Tensor) -> Tensor:
    """The median around each of [T], itself left out."""
    padded = F.pad(values[None, None], (AROUND // 2, AROUND // 2), mode="replicate")[0, 0].unfold(0, AROUND, 1)
    others = torch.cat([padded[:, : AROUND // 2], padded[:, AROUND // 2 + 1 :]], dim=1)
    return others.median(dim=1).values
