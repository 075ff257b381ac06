"""The video tokens of one forward: which of them are here, and what they see of each other.

`Tokens` holds them all. Whatever a block needs to know of a token's place goes through here, so that a share of the
tokens can stand in (parallel/sequence.py); everything else in a block acts on each token alone.

B batch, L tokens held, S keys, N heads, D channels a head, F latent frames.
"""

from einops import rearrange
from torch import Tensor

from .attention import AttentionFunction
from .speakers import mean_of_heads, speaker_attention, speaker_positions

Grid = tuple[int, int, int]
"""Latent frames, token rows, token columns."""


class Tokens:
    """All tokens of a grid, frame by frame, row by row."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    @property
    def per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.grid[1] * self.grid[2]

    @property
    def count(self) -> int:
        """Tokens of the whole grid."""
        return self.grid[0] * self.per_frame

    def split(self, x: Tensor) -> Tensor:
        """Keep the tokens held here: [A, all, ...] -> [A, L, ...]."""
        return x

    def join(self, x: Tensor) -> Tensor:
        """Put the shares together again: [A, L, ...] -> [A, all, ...]."""
        return x

    def attend(
        self, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor, masks_3S: Tensor | None, attention: AttentionFunction
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention over the whole grid [B,L,N,D], and with speakers' masks each token's audio position [B,L]."""
        out_BLND = attention(q_BLND, k_BLND, v_BLND)
        if masks_3S is None:
            return out_BLND, None
        strength_BL3 = mean_of_heads(speaker_attention(q_BLND, k_BLND, masks_3S, attention))
        low_B13, high_B13 = strength_BL3.amin(1, keepdim=True), strength_BL3.amax(1, keepdim=True)
        return out_BLND, speaker_positions(strength_BL3, low_B13, high_B13)

    def attend_frames(self, q_BLND: Tensor, k_FSND: Tensor, v_FSND: Tensor, attention: AttentionFunction) -> Tensor:
        """Each token attends to the keys of its own latent frame: [B,L,N,D]."""
        q = rearrange(q_BLND, "b (f s) n d -> (b f) s n d", s=self.per_frame)
        return rearrange(attention(q, k_FSND, v_FSND), "(b f) s n d -> b (f s) n d", b=q_BLND.shape[0])
