"""Rotary position embedding: pairs of neighbouring channels turned by position-dependent angles."""

import torch
from torch import Tensor

BASE = 10_000.0


def rotation(positions: Tensor, channels: int) -> Tensor:
    """Angles of 1D positions: [L] -> [L, channels / 2] in float64."""
    exponents = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float64) / channels
    return positions.to(torch.float64)[:, None] * BASE**-exponents


def grid_rotation(grid: tuple[int, int, int], head_dim: int, device: torch.device) -> Tensor:
    """Cosines and sines for a token grid (frames, rows, columns): [2, tokens, head_dim / 2] in float32.

    Rows and columns take 2 * (head_dim // 6) channels each, frames the rest (Wan 2.1).
    """
    side = 2 * (head_dim // 6)
    channels = (head_dim - 2 * side, side, side)
    axes = [rotation(torch.arange(n, device=device), c) for n, c in zip(grid, channels, strict=True)]
    frames, rows, columns = grid
    angles = torch.cat(
        [
            axes[0][:, None, None].expand(frames, rows, columns, -1),
            axes[1][None, :, None].expand(frames, rows, columns, -1),
            axes[2][None, None, :].expand(frames, rows, columns, -1),
        ],
        dim=-1,
    ).reshape(frames * rows * columns, -1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x_BLND: Tensor, rotation_2LP: Tensor) -> Tensor:
    """Turn each pair of channels of `x` [B,L,N,D] by the table's angle [2,L,D/2] (or [2,B,L,D/2])."""
    cos, sin = rotation_2LP.unsqueeze(-2)
    pairs = x_BLND.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # complex numbers are left alone, and what is cast after it is stacked is kept
        even, odd = pairs.unbind(-1)
        turned = ((even * cos - odd * sin).type_as(x_BLND), (even * sin + odd * cos).type_as(x_BLND))
        return torch.stack(turned, dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2).type_as(x_BLND)
