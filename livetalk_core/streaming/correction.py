"""Retrospection: the stream looks back at its last chunks and undoes what has drifted since it began.

This step at inference is the project's own. What the paper calls retrospective self-correction is in the training:
rollouts over several chunks on the student's own motion frames (training/distill.py).

Drift is told from pose by comparing only what pose leaves alone. The portrait is bent to how the head is held in a
chunk's last frame (models/displacement.py), held still and encoded as those frames were; so a head that has come nearer
or turned away is compared with itself. A reading is how the motion latents, which chunks hand on, differ from that: for
every channel the contrast of its smooth part, the strength of its fine part (sharpness), and the means of regions. The
model's own constant error is no drift: readings are taken against those of the first `lookback` chunks, and after a
prompt has changed against the first `lookback` of that, less what had drifted before. Single chunks differ, so drift is
the mean of the last `lookback` readings. A channel's mean is the median of what its regions have drifted by; how they
differ from that (features, hair) says whether it is still the same person.

What passes the threshold is undone by `strength`, and taken off the remembered readings at the same time. So nothing is
corrected twice. With C what has been corrected so far and z(i) the drift without any correction, of which a correction
takes a share `a` away in truth, the next correction makes of C

    (1 - s) C + s mean(z(i) + (1 - a) C(i)),   s = strength in 0..1, or 0 where nothing is due, i: the last `lookback`.

The absolute values of its coefficients for C and C(i) add up to 1 - s + s |1 - a|, less than 1 for every 0 < a < 2: it
settles for any interval, lookback and strength. For a <= 1 none is negative: a C stays between the least and the
greatest drift so far, and does not swing.

A correction comes in gradually: the next chunk's first denoising step, which decides on pose and movement, sees the
latents as they were, the last one, which decides on texture and colour, the corrected ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import CorrectionConfig
from ..models.displacement import displacement, moved

REGIONS = 4
"""Along each side of the picture."""
STATISTICS = 2 + REGIONS**2
"""Of a channel in a reading: contrast, sharpness, regions."""
MEAN, CONTRAST, SHARPNESS = 0, 1, 2
PARTS = 1 + STATISTICS
"""Of a channel's drift: mean, contrast, sharpness, what regions differ from the mean."""
MEMORY = 2
"""Rows of a review before its readings: what the model does by itself, and the drift before the last prompt."""
TELLING = 3.0
"""Sharpness of all channels together differs three times less between poses than other statistics do, so it counts as
much more (measured by benchmarks/drift.py)."""
ALONE = 0.5
"""Contrast and sharpness of one channel, and all regions together, differ twice as much as means do."""


class Drift(NamedTuple):
    """How far each kind of statistics is off, in the threshold's unit: 0.1 is about a tenth of the picture's own
    contrast."""

    mean: float
    contrast: float
    sharpness: float
    likeness: float


def split(motion: Tensor) -> tuple[Tensor, Tensor]:
    """The smooth and the fine part of latents [C,k,h,w]; they add up to it."""
    smooth = F.avg_pool2d(motion.transpose(0, 1), 3, 1, 1, count_include_pad=False).transpose(0, 1)
    return smooth, motion - smooth


def bent(portrait: Tensor, frame: Tensor) -> Tensor:
    """The portrait [3,1,H,W] in -1..1 as it looks in the pose of a frame [3,1,H,W]."""
    here, there = portrait.transpose(0, 1), frame.transpose(0, 1)
    return moved(here, displacement(there, here)).clamp(-1, 1).transpose(0, 1)


def read(motion: Tensor, like: Tensor, contrast: Tensor) -> Tensor:
    """A reading [C,STATISTICS]: how latents [C,k,h,w] differ from those `like` they should be.

    Means are in units of `contrast` [C], the deviation of each channel's smooth part in the portrait; the others are
    logarithms of ratios.
    """
    (smooth, fine), (smooth_like, fine_like) = split(motion.float()), split(like.float())
    off = (smooth.mean(1) - smooth_like.mean(1)) / contrast[:, None, None]
    regions = F.adaptive_avg_pool2d(off[None], REGIONS)[0].flatten(1)
    contrasts = _ratio(smooth.mean(1).flatten(1).std(1), smooth_like.mean(1).flatten(1).std(1))
    sharpness = _ratio(_strength(fine), _strength(fine_like))
    return torch.cat([contrasts[:, None], sharpness[:, None], regions], dim=1)


def parted(difference: Tensor) -> Tensor:
    """A difference of readings [C,STATISTICS] as drift [C,PARTS]."""
    mean = difference[:, 2:].median(1, keepdim=True).values
    return torch.cat([mean, difference[:, :2], difference[:, 2:] - mean], dim=1)


def reading_of(drift: Tensor) -> Tensor:
    """What drift [C,PARTS] makes of a reading: [C,STATISTICS]."""
    return torch.cat([drift[:, CONTRAST : SHARPNESS + 1], drift[:, 3:] + drift[:, :1]], dim=1)


def deviations(latent: Tensor) -> Tensor:
    """The deviation [C] of each channel's smooth part, of latents [C,k,h,w]."""
    return split(latent.float())[0].mean(1).flatten(1).std(1).clamp_min(1e-3)


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    return (one.clamp_min(1e-3) / other.clamp_min(1e-3)).log()


def _strength(fine: Tensor) -> Tensor:
    return fine.square().mean((1, 2, 3)).sqrt()


def undone(motion: Tensor, amount: Tensor, contrast: Tensor) -> Tensor:
    """Latents [C,k,h,w] with `amount` [C,PARTS] of drift taken off."""
    smooth, fine = split(motion)
    amount, contrast = amount.to(motion), contrast.to(motion)[:, None, None, None]
    middle = smooth.mean((2, 3), keepdim=True)
    regions = amount[:, 3:].unflatten(1, (REGIONS, REGIONS))[None]
    field = F.interpolate(regions, size=motion.shape[-2:], mode="bilinear", align_corners=False)[0][:, None]
    factors = (-amount[:, 1:3]).exp()[:, :, None, None, None]
    off = (amount[:, MEAN, None, None, None] + field) * contrast
    return (smooth - middle) * factors[:, 0] + middle - off + fine * factors[:, 1]


@dataclass(frozen=True)
class Corrector:
    """Reviews the chunks of one stream; `contrast` [C] is the portrait's.

    A review [MEMORY + n,C,STATISTICS] is what is remembered: n <= lookback readings after two rows. While there are
    fewer than `lookback`, the stream is still learning what the model does by itself.
    """

    config: CorrectionConfig
    contrast: Tensor
    steps: int

    @classmethod
    def of(cls, config: CorrectionConfig, held_portrait: Tensor, steps: int) -> "Corrector":
        """From the latents [C,k,h,w] of the portrait held for as many frames as a chunk hands on."""
        return cls(config, deviations(held_portrait), steps)

    def review(self, chunk: int, past: Tensor | None, motion: Tensor, like: Tensor, new_prompt: bool) -> Tensor:
        """What is remembered once chunk number `chunk` has ended in `motion`, which should be `like` the bent portrait.

        `past` is what was remembered when it began. With `new_prompt` it was the first one of another prompt.
        """
        newest = read(motion.cpu(), like.cpu(), self.contrast)[None]
        if past is None:
            past = newest.new_zeros(MEMORY, *newest.shape[1:])
        own, before, readings = past[:1], past[1:MEMORY], past[MEMORY:] - reading_of(self.due(chunk, past))
        if new_prompt:
            if self._knows(past):
                before = readings.mean(0, keepdim=True) - own
            readings = readings[:0]
        readings = torch.cat([readings, newest])
        if len(readings) == self.config.lookback:
            own = readings.mean(0, keepdim=True) - before if not self._knows(past) or new_prompt else own
        return torch.cat([own, before, readings[-self.config.lookback :]])

    def drift(self, past: Tensor | None) -> Tensor | None:
        """What the last chunks have drifted by, [C,PARTS]; None while that is not known."""
        if past is None or not self._knows(past):
            return None
        return parted(past[MEMORY:].mean(0) - past[0])

    def due(self, chunk: int, past: Tensor | None) -> Tensor:
        """What chunk number `chunk` is to undo, [C,PARTS]: 0 where a part has not drifted far enough."""
        drift = self.drift(past) if chunk % self.config.interval == 0 else None
        if drift is None:
            return torch.zeros(len(self.contrast), PARTS)
        return self.config.strength * torch.where(passed(drift, self.config.threshold), drift, 0.0)

    def motion(self, chunk: int, motion: Tensor, past: Tensor | None) -> Tensor:
        """What chunk number `chunk` starts from: `motion` [C,k,h,w] as it is, or corrected for each step
        [steps,C,k,h,w]."""
        amount = self.due(chunk, past)
        if not amount.any():
            return motion
        corrected = undone(motion, amount, self.contrast)
        shares = torch.linspace(0, 1, self.steps) if self.steps > 1 else torch.ones(1)
        return torch.stack([torch.lerp(motion, corrected, float(share)) for share in shares])

    def _knows(self, past: Tensor) -> bool:
        return len(past) == MEMORY + self.config.lookback


def extents(drift: Tensor) -> Tensor:
    """How far each part of a drift [C,PARTS] is off, in the threshold's unit: means one by one; contrast and sharpness
    of all channels where they have changed together, else one by one; regions all together."""
    size = drift.abs()
    contrast, sharpness = drift[:, CONTRAST : SHARPNESS + 1].median(0).values.abs()
    regions = ALONE * drift[:, 3:].square().mean().sqrt()
    return torch.cat(
        [
            size[:, MEAN : MEAN + 1],
            (ALONE * size[:, CONTRAST : CONTRAST + 1]).maximum(contrast),
            (ALONE * size[:, SHARPNESS : SHARPNESS + 1]).maximum(TELLING * sharpness),
            regions.expand(len(drift), REGIONS**2),
        ],
        dim=1,
    )


def extent(drift: Tensor) -> Drift:
    """How far each kind of statistics of a drift [C,PARTS] is off: the most of all channels."""
    most = extents(drift).amax(0).tolist()
    return Drift(most[MEAN], most[CONTRAST], most[SHARPNESS], most[-1])


def passed(drift: Tensor, threshold: float) -> Tensor:
    """Which parts [C,PARTS] have drifted beyond the threshold."""
    return extents(drift) > threshold
