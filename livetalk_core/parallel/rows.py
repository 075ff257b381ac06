"""What splits a VAE over rows: each rank computes some rows of every frame, and the result is the whole one's.

Applied from outside to a built VAE, which keeps its weights. Every norm in a VAE here is over channels, so a
convolution is where rows meet: it reads its neighbours' border rows, which are exchanged just before it.

The split follows latent rows, so that every stride stays within a rank. With more ranks than latent rows, the last
ranks have nothing to compute and are given the result.

H W rows and columns of one rank, L tokens of one rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .collectives import Group, gather_uneven, send_edges
from .mesh import group_of

ROWS = -2
"""The dimension of rows in [..., H, W]."""


def share_rows(rows: int, ranks: int) -> list[int]:
    """How many of the latent rows each rank holds: as even as can be, the first ranks one more; 0 for idle ranks."""
    return [rows // ranks + (rank < rows % ranks) for rank in range(ranks)]


class Split(NamedTuple):
    """A picture's rows on the ranks: latent rows of each, this rank, the group of all and of those at work.

    A latent row stands for `stride` pixel rows.
    """

    latent_rows: list[int]
    rank: int
    group: Group
    working: Group
    stride: int

    @property
    def idle(self) -> bool:
        """Whether this rank has nothing to compute."""
        return self.latent_rows[self.rank] == 0

    def pixel_rows(self, height: int) -> list[int]:
        """Each rank's rows of a video of `height` rows; the last one at work takes what no latent row covers."""
        rows = [self.stride * count for count in self.latent_rows]
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


class RowExchange:
    """What the layers of a split VAE ask for their neighbours' rows: zeros as long as nothing is being split."""

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.current: Split | None = None

    def split(self, latent_rows: int) -> Split:
        """How a latent of so many rows is split."""
        shares = share_rows(latent_rows, ranks := dist.get_world_size())
        working = sum(rows > 0 for rows in shares)
        return Split(shares, dist.get_rank(), group_of(range(ranks)), group_of(range(working)), self.stride)

    @contextmanager
    def splitting(self, split: Split) -> Iterator[None]:
        """While this lasts, layers hold the rows of `split`."""
        before, self.current = self.current, split
        try:
            yield
        finally:
            self.current = before

    def borders(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows above and below `x` [..., H, W], from its neighbours; zeros beyond the picture."""
        first, last = x[..., :1, :], x[..., -1:, :]
        if self.current is None:
            return torch.zeros_like(first), torch.zeros_like(last)
        above, below = send_edges(first.movedim(1, -1), last.movedim(1, -1), self.current.working)
        return above.movedim(-1, 1), below.movedim(-1, 1)

    def above_and_below(self, _: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        """Before a layer: its input between the rows of its neighbours."""
        above, below = self.borders(arguments[0])
        return torch.cat([above, arguments[0], below], dim=ROWS)

    def fill_beyond(self, room_BTHWC: Tensor) -> None:
        """Put the rows of its neighbours into what has room for them (`models.vae`)."""
        room = room_BTHWC.movedim(-1, 1)
        room[..., :1, :], room[..., -1:, :] = self.borders(room[..., 1:-1, :])

    def below(self, _: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        """Before a layer: its input, and the row below it."""
        return torch.cat([arguments[0], self.borders(arguments[0])[1]], dim=ROWS)

    def instead_of_padding(self, vae: nn.Module, leaves_room: bool = False) -> None:
        """Let every convolution of `vae` that pads rows with zeros ask for the neighbours' rows.

        A VAE that `leaves_room` does so for its 3D convolutions that have `fill_beyond`: nothing is copied to add them.
        """
        convolutions: list[Any] = [module for module in vae.modules() if getattr(module, "kernel_size", ())]
        for conv in convolutions:
            if conv.padding[ROWS]:
                conv.padding = (*conv.padding[:ROWS], 0, conv.padding[-1])
                if leaves_room and len(conv.kernel_size) == 3:
                    conv.fill_beyond = self.fill_beyond
                else:
                    conv.register_forward_pre_hook(self.above_and_below)
