"""Work on each frame by itself, split over ranks: each does some of them, and all get all."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .collectives import Group, gather_uneven
from .rows import share_rows

TIME = 2
"""The dimension of frames in [B,C,T,H,W]."""


def split_frames(work: Callable[..., Tensor], group: Group) -> Callable[..., Tensor]:
    """`work`, [B,C,T,H,W] -> [B,C,T,H,W], in which no frame knows of another, as all ranks of `group` do it together.

    They must call it alike. Fewer frames than ranks are every rank's own work.
    """

    def together(frames: Tensor, *others: Any) -> Tensor:
        shares = share_rows(frames.shape[TIME], group.size())
        if not shares[-1] or len(shares) == 1:
            return work(frames, *others)
        own = frames.split(shares, TIME)[group.rank()]
        return gather_uneven(work(own, *others), TIME, shares, group)

    return together
