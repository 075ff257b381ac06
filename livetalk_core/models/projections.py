"""What brings image tokens and audio features to the transformer's widths.

B batch, S tokens, P speakers, F latent frames, T audio tokens a latent frame, C width.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import TransformerConfig


class ImageProjection(nn.Module):
    """Maps the vision encoder's tokens to the transformer's width."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            operations.LayerNorm(config.clip_dim, **factory),
            operations.Linear(config.clip_dim, config.clip_dim, **factory),
            nn.GELU(),
            operations.Linear(config.clip_dim, config.dim, **factory),
            operations.LayerNorm(config.dim, **factory),
        )

    def forward(self, clip_BSC: Tensor) -> Tensor:
        """[B,S,clip_dim] -> [B,S,dim]."""
        return self.proj(clip_BSC)


class AudioProjection(nn.Module):
    """Turns the audio frames around each latent frame into `context_tokens` tokens.

    The first latent frame covers one video frame: its whole window is read. A later one covers `stride`:
    the first one's window up to its centre, the centres of those between, the last one's from its centre on.
    """

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.window, self.tokens = config.audio_window, config.context_tokens
        self.stride = config.geometry.temporal_stride
        frame = config.audio_blocks * config.audio_channels
        width, out = config.intermediate_dim, config.output_dim
        self.proj1 = operations.Linear(self.window * frame, width, **factory)
        self.proj1_vf = operations.Linear((self.window + self.stride - 1) * frame, width, **factory)
        self.proj2 = operations.Linear(width, width, **factory)
        self.proj3 = operations.Linear(width, self.tokens * out, **factory)
        self.norm = operations.LayerNorm(out, **factory)

    def forward(self, windows: Tensor) -> Tensor:
        """[P, 1+stride*(F-1), window, blocks, channels] -> [F, P*T, output_dim]."""
        centre = self.window // 2
        first, later = windows[:, :1], windows[:, 1:].unflatten(1, (-1, self.stride))
        around = [
            later[:, :, 0, : centre + 1],
            later[:, :, 1:-1, centre],
            later[:, :, -1, centre:],
        ]
        hidden = torch.cat(
            [self.proj1(first.flatten(2)), self.proj1_vf(torch.cat(around, dim=2).flatten(2))], dim=1
        ).relu()
        tokens = self.proj3(self.proj2(hidden).relu()).unflatten(-1, (self.tokens, -1))
        return rearrange(self.norm(tokens), "p f t c -> f (p t) c")
