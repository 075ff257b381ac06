"""Joining chunks: a chunk's first frames are led from where the last one shown was to where the chunk itself goes on.

Each chunk makes the last frame shown anew. Where that copy's head is not quite where it was shown, the first new frames
are bent by the difference, less and less: what has moved is moved back, not faded, as fading shows both places at once.
What remains is light, colour and texture: the first new frame should follow the one shown as the chunk's next frames
follow it, and by what it is off the first frames are changed, less and less. Of that, edges are left out: whatever the
bending has not explained would show double.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.displacement import displacement, moved

FRAMES = 4
"""Over which what a chunk's beginning is off by goes away. Longer, and the mouth is late where it opens fast."""
FRAMES_INTO_SILENCE = 8
"""As FRAMES, where a live stream that was cut goes on in silence: no mouth to be late, and more to be off by."""
TEXTURE = 0.1
"""Of a picture's -1..1: finer differences than a smooth part's of up to so much are texture, larger ones edges."""
SMOOTH = 16
"""Parts of the shorter side; what is smaller is fine."""


@dataclass
class Seam:
    """Joins one chunk's frames to `shown` [3,1,H,W], the last frame of the chunk before (None in the first chunk).

    The chunk makes that frame anew as its frame `place`; it is replaced by the one shown. What the chunk is off by goes
    away over `length` frames.
    """

    shown: Tensor | None
    place: int
    length: int = FRAMES
    _bend: Tensor | None = None
    _gap: Tensor | None = None

    def close(self, frames: Tensor, first: int) -> Tensor:
        """Frames [3,n,H,W] in -1..1, of which the first is the chunk's frame `first`. A chunk's groups come in order.

        The group with the chunk's frame `place` + 1 should hold frames after it, which say where it is going.
        """
        if self.shown is None or first > self.place + self.length:
            return frames
        if self.shown.device != frames.device:
            self.shown = self.shown.to(frames, non_blocking=True)  # once a chunk, and not waited for
        shown, again = self.shown.to(frames), self.place - first
        if 0 <= again < frames.shape[1]:
            self._bend = displacement(*(picture.transpose(0, 1) for picture in (shown, frames[:, again : again + 1])))
        if 0 <= again + 1 < frames.shape[1]:
            self._gap = self._off(shown, frames[:, again + 1 : again + 1 + FRAMES])
        since = torch.arange(first, first + frames.shape[1], device=frames.device) - self.place
        share = torch.where(since < 1, 0.0, (1 - since / self.length).clamp_min(0)).to(frames)
        if self._gap is not None:
            led = bent_back(frames, self._bend, share) + share[:, None, None] * self._gap
            frames = torch.where((share > 0)[:, None, None], led.clamp(-1, 1), frames)
        return torch.where((since == 0)[:, None, None], shown, frames)

    def _off(self, shown: Tensor, new: Tensor) -> Tensor:
        """What the first of the new frames [3,n,H,W], bent back, lacks of following the one shown: [3,1,H,W]."""
        there = bent_back(new, self._bend, new.new_ones(new.shape[1]))
        return without_edges(shown + there.diff(dim=1).sum(1, keepdim=True) / max(1, new.shape[1] - 1) - there[:, :1])


def bent_back(frames: Tensor, bend: Tensor | None, share: Tensor) -> Tensor:
    """Frames [3,n,H,W] looked up at a share [n] of a field of displacements [1,2,H,W]."""
    if bend is None:
        return frames
    return moved(frames.transpose(0, 1), bend * share[:, None, None, None]).transpose(0, 1)


def without_edges(gap: Tensor) -> Tensor:
    """A difference of pictures [3,1,H,W]: all of its smooth part, of the rest what is no stronger than texture."""
    window = max(3, min(gap.shape[-2:]) // SMOOTH | 1)
    smooth = F.avg_pool2d(gap, window, 1, window // 2, count_include_pad=False)
    return smooth + (gap - smooth).clamp(-TEXTURE, TEXTURE)
