"""Between a latent and the tokens of its patches (a square of latent points each), frame by frame, row by row.

B batch, L tokens, F latent frames, h w latent rows and columns, K values of a patch.
"""

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .tokens import Grid


def patchify(x_BCFhw: Tensor, side: int) -> Tensor:
    """A latent's patches of `side` x `side` points, in the order of the patch embedding's kernel: -> [B,L,K]."""
    return rearrange(x_BCFhw, "b z f (r p) (c q) -> b (f r c) (z p q)", p=side, q=side)


def unpatchify(x_BLK: Tensor, grid: Grid, side: int) -> Tensor:
    """Tokens' patches, channel fastest, back to a latent: [B,L,K] -> [B,C,F,h,w]."""
    frames, rows, columns = grid
    return rearrange(x_BLK, "b (f r c) (p q z) -> b z f (r p) (c q)", f=frames, r=rows, c=columns, p=side, q=side)


def token_masks(masks_3hw: Tensor, grid: Grid) -> Tensor:
    """Masks resized to the token grid by nearest, then > 0: [3, h, w] -> [3, rows*columns] of 0 and 1 in float32."""
    resized = F.interpolate(masks_3hw[None].float(), size=grid[1:], mode="nearest")[0]
    tokens = (resized > 0).flatten(1).float()
    if not tokens.any(dim=1).all():
        raise InputError("a speaker or background mask covers no token; each needs an area of at least one")
    return tokens
