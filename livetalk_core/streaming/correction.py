"""Retrospective correction: the stream looks back at its last chunks and pulls what has drifted towards the avatar.

What chunks hand on, the motion latents, is measured: for every channel its mean, and the deviations of its smooth part
(contrast) and of its fine part (sharpness). The anchor is the portrait itself, held still for as many frames. Single
chunks differ with pose and speech, so drift is what the last `lookback` chunks have in common.

Where it passes the threshold, the next chunk starts from corrected latents: each part's statistics moved towards the
anchor's by `strength`. It does so gradually: its first denoising step, which decides on pose and movement, sees the
latents as they were, the last one, which decides on texture and colour, the corrected ones. The chunk's first new frame
should follow the last one shown as its own next frames follow it: by what it is off, the first frames are moved, less
and less. So no seam shows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import CorrectionConfig

STATISTICS = 3
"""Mean, smooth deviation, fine deviation."""
SEAM_FRAMES = 4
"""Over which what a chunk's beginning is off by is faded out. Longer, and the mouth is late where it opens fast."""


def split(motion: Tensor) -> tuple[Tensor, Tensor]:
    """The smooth and the fine part of latents [16,k,h,w]; they add up to it."""
    smooth = F.avg_pool2d(motion.transpose(0, 1), 3, 1, 1, count_include_pad=False).transpose(0, 1)
    return smooth, motion - smooth


def measure(motion: Tensor) -> Tensor:
    """Statistics of latents [16,k,h,w]: [16,k,3]."""
    smooth, fine = split(motion.float())
    return torch.stack([smooth.mean((2, 3)), smooth.std((2, 3)), fine.square().mean((2, 3)).sqrt()], dim=-1)


def distance(found: Tensor, anchor: Tensor) -> float:
    """How far statistics are from the anchor's: 0 is equal, 1 means off by a deviation (or by a factor of e)."""
    means = (found[..., 0] - anchor[..., 0]).abs() / anchor[..., 1].clamp_min(1e-3)
    spreads = (found[..., 1:].clamp_min(1e-3) / anchor[..., 1:].clamp_min(1e-3)).log().abs()
    return float(torch.cat([means[..., None], spreads], dim=-1).mean())


def restore(motion: Tensor, found: Tensor, anchor: Tensor, strength: float) -> Tensor:
    """Latents [16,k,h,w] whose drift, from `anchor` to `found` statistics, is undone by `strength` in 0..1."""
    aim = torch.lerp(found, anchor, strength)
    mean, smooth_ratio, fine_ratio = (
        (value[..., None, None]).to(motion)
        for value in (found[..., 0], *(aim / found.clamp_min(1e-3))[..., 1:].unbind(-1))
    )
    smooth, fine = split(motion)
    return (smooth - mean) * smooth_ratio + aim[..., 0, None, None].to(motion) + fine * fine_ratio


@dataclass
class Seam:
    """Joins one chunk's frames to `shown` [3,1,H,W], the last frame of the chunk before (None in the first chunk).

    The chunk makes that frame anew as its frame `place`; it is replaced by the one shown.
    """

    shown: Tensor | None
    place: int
    _gap: Tensor | None = None

    def close(self, frames: Tensor, first: int) -> Tensor:
        """Frames [3,n,H,W] in -1..1, of which the first is the chunk's frame `first`. They come in order, and the first
        new one with others behind it."""
        if self.shown is None or first > self.place + SEAM_FRAMES:
            return frames
        if self.shown.device != frames.device:
            self.shown = self.shown.to(frames, non_blocking=True)  # once a chunk, and not waited for
        shown, begin = self.shown.to(frames), self.place + 1 - first
        if 0 <= begin < frames.shape[1]:
            new = frames[:, begin : begin + SEAM_FRAMES]
            self._gap = shown + new.diff(dim=1).mean(1, keepdim=True) - new[:, :1]
        since = torch.arange(first, first + frames.shape[1], device=frames.device)[:, None, None] - self.place
        if self._gap is not None:
            share = torch.where(since < 1, 0.0, (1 - since / SEAM_FRAMES).clamp_min(0))
            frames = (frames + share * self._gap).clamp(-1, 1)
        return torch.where(since == 0, shown, frames)


@dataclass(frozen=True)
class Corrector:
    """Reviews the chunks of one stream against `anchor`, the statistics [16,k,3] of the portrait held still."""

    config: CorrectionConfig
    anchor: Tensor
    steps: int

    @classmethod
    def of(cls, config: CorrectionConfig, held_portrait: Tensor, steps: int) -> "Corrector":
        """From the latents [16,k,h,w] of the portrait held for as many frames as a chunk hands on."""
        return cls(config, measure(held_portrait), steps)

    def review(self, past: Tensor | None, motion: Tensor) -> Tensor:
        """The statistics [n,16,k,3] of the last chunks, n <= lookback, with those of the newest added."""
        newest = measure(motion).cpu()[None]
        return newest if past is None else torch.cat([past, newest])[-self.config.lookback :]

    def motion(self, chunk: int, motion: Tensor, past: Tensor | None) -> Tensor:
        """What chunk number `chunk` starts from: `motion` [16,k,h,w] as it is, or corrected for each step
        [steps,16,k,h,w]."""
        if past is None or chunk % self.config.interval or len(past) < self.config.lookback:
            return motion
        found = past.mean(0)
        if distance(found, self.anchor) < self.config.threshold:
            return motion
        corrected = restore(motion, found, self.anchor, self.config.strength)
        shares = torch.linspace(0, 1, self.steps) if self.steps > 1 else torch.ones(1)
        return torch.stack([torch.lerp(motion, corrected, float(share)) for share in shares])
