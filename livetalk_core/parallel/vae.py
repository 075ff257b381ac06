"""The VAE split over rows: each rank encodes or decodes some rows of every frame, and the result is the whole one's.

Applied from outside to a built VAE, which keeps its weights. Every norm in this VAE is over channels, so rows meet in
two places only. A convolution reads its neighbours' border rows, which are exchanged just before it; the one attention
in the middle reads the keys and values of all rows, which are gathered. Causal history stays where its rows are.

The split follows latent rows (8 pixel rows each), so that every stride stays within a rank. With more ranks than
latent rows, the last ranks have nothing to compute and are given the result.

B batch, C channels, T frames, H W rows and columns of one rank, h w latent rows and columns, L tokens of one rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..models.attention import attend
from ..models.vae import LATENT_CHANNELS, VAE, Downsample, SpatialAttention, Upsample
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, LatentShape, latent_frames
from .collectives import Group, gather_uneven, send_edges
from .mesh import group_of

ROWS = -2
"""The dimension of rows in [..., H, W]."""


def share_rows(rows: int, ranks: int) -> list[int]:
    """How many of the latent rows each rank holds: as even as can be, the first ranks one more; 0 for idle ranks."""
    return [rows // ranks + (rank < rows % ranks) for rank in range(ranks)]


class Split(NamedTuple):
    """A picture's rows on the ranks: latent rows of each, this rank, the group of all and of those at work."""

    latent_rows: list[int]
    rank: int
    group: Group
    working: Group

    @property
    def idle(self) -> bool:
        """Whether this rank has nothing to compute."""
        return self.latent_rows[self.rank] == 0

    def pixel_rows(self, height: int) -> list[int]:
        """Each rank's rows of a video of `height` rows; the last one at work takes what no latent row covers."""
        rows = [SPATIAL_STRIDE * count for count in self.latent_rows]
        last = sum(count > 0 for count in self.latent_rows) - 1
        rows[last] += height - sum(rows)
        return rows

    def keep(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """This rank's rows of `x` [..., all, W]."""
        return x.split(list(rows), dim=ROWS)[self.rank]

    def join(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """All ranks' rows: [..., H, W] -> [..., all, W]."""
        return gather_uneven(x, x.dim() + ROWS, rows, self.group)

    def gather_tokens(self, x_TLND: Tensor) -> Tensor:
        """The tokens (row by row) of all ranks at work: [T,L,N,D] -> [T,all,N,D]."""
        columns = x_TLND.shape[1] // self.latent_rows[self.rank]
        tokens = [rows * columns for rows in self.latent_rows if rows]
        return gather_uneven(x_TLND, 1, tokens, self.working)


class SplitVAE:
    """A built VAE on several ranks: they all call the same method with the whole input and get the whole output.

    `vae` is changed in place: its convolutions ask for border rows, which are zeros as long as nothing is split.
    """

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self._current: Split | None = None
        _exchange_borders(vae, self)

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """See `VAE.encode`."""
        frames, height, width = video_BCTHW.shape[2:]
        shape = LatentShape(latent_frames(frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
        split = self.split(shape.height)
        if split.idle:
            latent = video_BCTHW.new_empty(len(video_BCTHW), LATENT_CHANNELS, shape.frames, 0, shape.width)
            latent = latent.to(self.vae.dtype)
        else:
            with self._splitting(split):
                latent = self.vae.encode(split.keep(video_BCTHW, split.pixel_rows(height)))
        return split.join(latent, split.latent_rows)

    def decode_groups(self, latent_BCThw: Tensor, clamp: bool = True) -> Iterator[Tensor]:
        """See `VAE.decode_groups`; a group's rows are joined as soon as they are decoded."""
        shape = LatentShape(*latent_BCThw.shape[2:])
        split = self.split(shape.height)
        rows = split.pixel_rows(shape.video.height)
        groups = self._own_groups(latent_BCThw, split, clamp)
        for _ in range(shape.frames):
            with self._splitting(split):
                group = next(groups)
            yield split.join(group, rows)

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """See `VAE.decode`."""
        return torch.cat(list(self.decode_groups(latent_BCThw)), dim=2)

    def split(self, latent_rows: int) -> Split:
        """How a latent of so many rows is split."""
        shares = share_rows(latent_rows, ranks := dist.get_world_size())
        working = sum(rows > 0 for rows in shares)
        return Split(shares, dist.get_rank(), group_of(range(ranks)), group_of(range(working)))

    def borders(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows above and below `x` [..., H, W], from its neighbours; zeros beyond the picture."""
        first, last = x[..., :1, :], x[..., -1:, :]
        if self._current is None:
            return torch.zeros_like(first), torch.zeros_like(last)
        above, below = send_edges(first.movedim(1, -1), last.movedim(1, -1), self._current.working)
        return above.movedim(-1, 1), below.movedim(-1, 1)

    def attend(self, q_TLND: Tensor, k_TLND: Tensor, v_TLND: Tensor) -> Tensor:
        """Attention of this rank's tokens to those of all rows."""
        if self._current is not None:
            keys_and_values = self._current.gather_tokens(torch.cat([k_TLND, v_TLND], dim=2))
            k_TLND, v_TLND = keys_and_values.chunk(2, dim=2)
        return attend(q_TLND, k_TLND, v_TLND)

    def _own_groups(self, latent_BCThw: Tensor, split: Split, clamp: bool) -> Iterator[Tensor]:
        own = split.keep(latent_BCThw, split.latent_rows)
        if not split.idle:
            return self.vae.decode_groups(own, clamp)
        shape = LatentShape(*own.shape[2:]).video
        empty = own.new_empty(len(own), 3, shape.frames, 0, shape.width, dtype=self.vae.dtype)
        return iter([empty[:, :, :1], *empty[:, :, 1:].split(TEMPORAL_STRIDE, dim=2)])

    @contextmanager
    def _splitting(self, split: Split) -> Iterator[None]:
        before, self._current = self._current, split
        try:
            yield
        finally:
            self._current = before


def _exchange_borders(vae: VAE, split: SplitVAE) -> None:
    """Let every layer of `vae` that reads across rows ask `split` for them, instead of padding with zeros."""

    def above_and_below(_: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        above, below = split.borders(arguments[0])
        return torch.cat([above, arguments[0], below], dim=ROWS)

    def below(_: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        return torch.cat([arguments[0], split.borders(arguments[0])[1]], dim=ROWS)

    convolutions: list[Any] = [module for module in vae.modules() if getattr(module, "kernel_size", ())]
    for conv in convolutions:
        if conv.padding[ROWS]:
            conv.padding = (*conv.padding[:ROWS], 0, conv.padding[-1])
            conv.register_forward_pre_hook(above_and_below)
    for module in vae.modules():
        if isinstance(module, Downsample):
            pad, conv = cast(Any, module.resample)
            pad.padding = (0, 1, 0, 0)  # left, right, top, bottom
            conv.register_forward_pre_hook(below)
        elif isinstance(module, Upsample):
            before: nn.Module = cast(Any, module.resample)[0]
            before.register_forward_pre_hook(above_and_below)
        elif isinstance(module, SpatialAttention):
            module.attention = split.attend
