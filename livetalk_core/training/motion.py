"""How a drawn person moves while speaking: the mouth by `mouth.py`'s function, head and eyes in step with the voice.

The voice's slow part lifts brows and head, its beats make the head nod; beside that the head sways, the eyes jump
from one place to another, the head follows them late and less far, and the eyes blink. T frames at 25 per second.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import FRAMES_PER_SECOND
from .chance import generator_of, spread, uniform
from .features import Pose
from .mouth import Mouth

BLINK = (0.6, 0.15, 0.0, 0.1, 0.45, 0.8)
"""Opening of the eyes through a blink."""
BLINK_SECONDS = (1.4, 4.5)
PAUSE, VOICE = (4, 0.12), (8, 0.25)
"""Frames of a pause's beginning and of the voice before it, and what the mouth's mean opening is below and above."""
LOOK_SECONDS = (0.7, 2.8)
HEAD_LAG_FRAMES = 9.0


def move(mouth: Mouth, *name: int | str, liveliness: float = 1.0, phrased: bool = False) -> Pose:
    """Poses [T] for a mouth's course [T]; `name` seeds all that the voice does not decide.

    `liveliness` is how far and fast the head moves and how far the eyes wander: 1 for a lively speaker, 0.4 for
    somebody on a video call. Mouth, lids and brows are the same. `phrased` has the eyes blink where the voice pauses,
    as speakers' eyes often do, so that blinks can be known from the sound; otherwise they blink by chance.
    """
    frames, chance = len(mouth.opening), generator_of("motion", *name)
    slow = lag(mouth.opening, 12.0)
    beat = lag(mouth.opening, 2.0) - slow
    gaze_x, gaze_y = (_looks(frames, chance, reach * min(1.0, 0.5 + liveliness / 2)) for reach in (1.0, 0.7))
    turn, size = uniform(chance, 0.05, 0.22) * liveliness, uniform(chance, 0.6, 1.4) * liveliness
    haste = 0.5 + liveliness / 2

    def sway(amplitude: float) -> Tensor:
        return _sway(frames, chance, haste) * amplitude * size

    return Pose(
        x=sway(0.035),
        y=sway(0.018) - 0.03 * size * (slow - 0.4) + 0.02 * liveliness * beat,
        scale=1 + sway(0.025),
        roll=sway(0.07) + 0.05 * size * uniform(chance, -1, 1) * beat,
        yaw=turn * lag(gaze_x, HEAD_LAG_FRAMES) + sway(0.13),
        pitch=0.6 * turn * lag(gaze_y, HEAD_LAG_FRAMES) + sway(0.06) + 0.22 * size * beat,
        gaze_x=gaze_x,
        gaze_y=gaze_y,
        eyes=_blinks(frames, _pauses(mouth.opening) if phrased else _times(frames, chance, BLINK_SECONDS))
        * uniform(chance, 0.85, 1.0),
        brow=(sway(0.4 / liveliness) + 1.6 * (slow - 0.4)).clamp(-1, 1),
        opening=mouth.opening,
        width=mouth.width,
    )


def lag(values: Tensor, frames: float) -> Tensor:
    """[T] followed with an exponential lag: each frame looks back with weights that fade over `frames`."""
    reach = int(4 * frames)
    weights = torch.exp(-torch.arange(reach, -1, -1.0) / frames)
    past = torch.cat([values[:1].expand(reach), values])
    return F.conv1d(past[None, None], (weights / weights.sum())[None, None])[0, 0]


def _sway(frames: int, chance: torch.Generator, haste: float) -> Tensor:
    """A slow random swing of about -1..1, `haste` times as fast: [T]."""
    rates, starts = spread(chance, 0.07, 0.5, 3, 1), spread(chance, 0, 2 * math.pi, 3, 1)
    seconds = torch.arange(frames) / FRAMES_PER_SECOND * haste
    return torch.sin(2 * math.pi * rates * seconds + starts).sum(0) / 2


def _times(frames: int, chance: torch.Generator, seconds: tuple[float, float]) -> Tensor:
    """Frames at which something happens, the pauses between of random length: [n], the first before the start."""
    low, high = (value * FRAMES_PER_SECOND for value in seconds)
    pauses = spread(chance, low, high, int(frames / low) + 3)
    return (pauses.cumsum(0) - uniform(chance, 1.0, 2.0) * high).long()


def _looks(frames: int, chance: torch.Generator, reach: float) -> Tensor:
    """Where the eyes look, -reach..reach, every second time straight ahead: [T]; a jump takes two frames."""
    times = _times(frames, chance, LOOK_SECONDS)
    targets = spread(chance, -reach, reach, len(times)) * (spread(chance, 0, 1, len(times)) < 0.55)
    place = torch.searchsorted(times, torch.arange(frames), right=True).sub(1).clamp_min(0)
    course = targets[place]
    return (course + torch.cat([course[:1], course[:-1]])) / 2


def _pauses(opening: Tensor) -> Tensor:
    """Frames by which a voice that was there has gone, not sooner after each other than blinks by chance: [n]."""
    (short, low), (long, high) = PAUSE, VOICE
    mean = F.pad(opening, (short + long, 0))[None, None]
    now = F.avg_pool1d(mean, short, 1)[0, 0, -len(opening) :]
    before = F.avg_pool1d(mean, long, 1)[0, 0, -len(opening) - short : -short]
    times: list[int] = []
    for time in ((now < low) & (before > high)).nonzero()[:, 0].tolist():
        if not times or time - times[-1] >= BLINK_SECONDS[0] * FRAMES_PER_SECOND:
            times.append(time)
    return torch.tensor(times, dtype=torch.long)


def _blinks(frames: int, times: Tensor) -> Tensor:
    """Opening of the eyes, 1 but for blinks that begin at `times` [n]: [T]."""
    eyes = torch.ones(frames + 2 * len(BLINK))
    for time in times.tolist():
        if 0 <= time < frames:
            eyes[time : time + len(BLINK)] = torch.tensor(BLINK)
    return eyes[:frames]
