"""Wan 2.1's causal video VAE: whole, or streamed group by group with equal results.

Time flows one way: each convolution looks at its own frame and the two before it. A `History` keeps
those between groups of frames; the call that owns a clip makes it and passes it down, so a streamed
decode is the whole one. The first latent frame stands for one video frame, each later one for four.

B batch (1 in practice), C channels, T frames in this group, H W pixels, h w latent points.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import VAEConfig
from ..shapes import TEMPORAL_STRIDE, latent_frames
from . import operations as default_operations
from .attention import AttentionFunction, attend

LATENT_CHANNELS = 16
WIDTHS = (1, 2, 4, 4)
BLOCKS_PER_LEVEL = 2
TEMPORAL_LEVELS = (False, True, True)
"""Which of the three downsampling levels of the encoder also halve the frames; the decoder's are reversed."""

History = dict[nn.Module, Tensor]
"""The last input frames of each causal convolution."""


def causal(conv: Any, x_BCTHW: Tensor, history: History) -> Tensor:
    """Convolve (`conv`: a Conv3d of any `operations`) with the frames before this group: zeros at the clip's start."""
    past_frames = conv.kernel_size[0] - 1
    if not past_frames:
        return conv(x_BCTHW)
    past = history.get(conv)
    if past is None:
        past = x_BCTHW.new_zeros((*x_BCTHW.shape[:2], past_frames, *x_BCTHW.shape[3:]))
    joined = torch.cat([past, x_BCTHW], dim=2)
    history[conv] = joined[:, :, -past_frames:]
    return conv(joined)


class Norm(nn.Module):
    """RMS norm over the channels (dimension 1)."""

    def __init__(self, dim: int, spatial_dims: int, **factory: Any) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim, *[1] * spatial_dims, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        length = x.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        return x * (x.shape[1] ** 0.5 / length) * self.gamma.to(x)


class ResidualBlock(nn.Module):
    """Two causal convolutions beside a shortcut."""

    def __init__(self, in_dim: int, out_dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        kernel = {"kernel_size": 3, "padding": (0, 1, 1)}
        self.residual = nn.Sequential(
            Norm(in_dim, 3, **factory),
            nn.SiLU(),
            operations.Conv3d(in_dim, out_dim, **kernel, **factory),
            Norm(out_dim, 3, **factory),
            nn.SiLU(),
            nn.Identity(),  # dropout in the published layout; keeps the keys' numbers
            operations.Conv3d(out_dim, out_dim, **kernel, **factory),
        )
        self.shortcut = operations.Conv3d(in_dim, out_dim, 1, **factory) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,C,T,H,W] -> [B,C',T,H,W]."""
        norm1, act, conv1, norm2, _, _, conv2 = self.residual
        y = causal(conv1, act(norm1(x)), history)
        y = causal(conv2, act(norm2(y)), history)
        return self.shortcut(x) + y


class SpatialAttention(nn.Module):
    """Single-head attention within each frame; `attention` may be exchanged."""

    attention: AttentionFunction

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.attention = attend
        self.norm = Norm(dim, 2, **factory)
        self.to_qkv = operations.Conv2d(dim, 3 * dim, 1, **factory)
        self.proj = operations.Conv2d(dim, dim, 1, **factory)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,C,T,H,W] -> [B,C,T,H,W]; needs no history."""
        frames, height = x.shape[2], x.shape[3]
        flat = rearrange(x, "b c t h w -> (b t) c h w")
        qkv = rearrange(self.to_qkv(self.norm(flat)), "f (three c) h w -> three f (h w) 1 c", three=3)
        out = rearrange(self.attention(*qkv), "f (h w) 1 c -> f c h w", h=height)
        return x + rearrange(self.proj(out), "(b t) c h w -> b c t h w", t=frames)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D layer to every frame of [B,C,T,H,W]."""
    return rearrange(layer(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", t=x.shape[2])


class Downsample(nn.Module):
    """Halves height and width and, if `temporal`, the frames after the first."""

    def __init__(self, dim: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), operations.Conv2d(dim, dim, 3, stride=(2, 2), **factory)
        )
        self.time_conv = operations.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1), **factory) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,C,T,H,W] -> [B,C,T or T/2,H/2,W/2]; the clip's first frame passes time unchanged."""
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        past = history.get(self.time_conv)
        history[self.time_conv] = x[:, :, -1:]
        return x if past is None else self.time_conv(torch.cat([past, x], dim=2))


class Upsample(nn.Module):
    """Doubles height and width, halves the channels and, if `temporal`, doubles the frames after the first."""

    def __init__(self, dim: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact"),
            operations.Conv2d(dim, dim // 2, 3, padding=1, **factory),
        )
        self.time_conv = operations.Conv3d(dim, 2 * dim, (3, 1, 1), **factory) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,C,T,H,W] -> [B,C/2,T or 2T,2H,2W]; the clip's first frame is not doubled, nor seen by later ones."""
        if self.time_conv is not None:
            if self.time_conv in history:
                doubled = causal(self.time_conv, x, history)
                x = rearrange(doubled, "b (two c) t h w -> b c (t two) h w", two=2)
            else:
                history[self.time_conv] = torch.zeros_like(x).expand(-1, -1, 2, -1, -1)
        return per_frame(self.resample, x)


class Encoder(nn.Module):
    """Video to latent mean and log-variance."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = [dim * width for width in (1, *WIDTHS)]
        self.conv1 = operations.Conv3d(3, widths[0], 3, padding=(0, 1, 1), **factory)
        levels: list[nn.Module] = []
        for level, (in_dim, out_dim) in enumerate(itertools.pairwise(widths)):
            levels += [ResidualBlock(in_dim, out_dim, operations, **factory)]
            levels += [ResidualBlock(out_dim, out_dim, operations, **factory) for _ in range(BLOCKS_PER_LEVEL - 1)]
            if level < len(TEMPORAL_LEVELS):
                levels += [Downsample(out_dim, TEMPORAL_LEVELS[level], operations, **factory)]
        self.downsamples = nn.ModuleList(levels)
        self.middle = _middle(widths[-1], operations, **factory)
        self.head = _head(widths[-1], 2 * LATENT_CHANNELS, operations, **factory)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,3,T,H,W] -> [B,32,t,h,w]; T is 1 for the clip's first frame, then multiples of 4."""
        return _run(self.conv1, (*self.downsamples, *self.middle), self.head, x, history)


class Decoder(nn.Module):
    """Latent to video."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = [dim * width for width in (WIDTHS[-1], *reversed(WIDTHS))]
        self.conv1 = operations.Conv3d(LATENT_CHANNELS, widths[0], 3, padding=(0, 1, 1), **factory)
        self.middle = _middle(widths[0], operations, **factory)
        levels: list[nn.Module] = []
        for level, (in_dim, out_dim) in enumerate(itertools.pairwise(widths)):
            entry = in_dim // 2 if level else in_dim
            levels += [ResidualBlock(entry, out_dim, operations, **factory)]
            levels += [ResidualBlock(out_dim, out_dim, operations, **factory) for _ in range(BLOCKS_PER_LEVEL)]
            if level < len(TEMPORAL_LEVELS):
                levels += [Upsample(out_dim, TEMPORAL_LEVELS[-1 - level], operations, **factory)]
        self.upsamples = nn.ModuleList(levels)
        self.head = _head(widths[-1], 3, operations, **factory)

    def forward(self, z: Tensor, history: History) -> Tensor:
        """[B,16,t,h,w] -> [B,3,T,H,W]; the clip's first latent frame must come alone."""
        return _run(self.conv1, (*self.middle, *self.upsamples), self.head, z, history)


def _middle(dim: int, operations: Any, **factory: Any) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ResidualBlock(dim, dim, operations, **factory),
            SpatialAttention(dim, operations, **factory),
            ResidualBlock(dim, dim, operations, **factory),
        ]
    )


def _head(in_dim: int, out_dim: int, operations: Any, **factory: Any) -> nn.Sequential:
    conv = operations.Conv3d(in_dim, out_dim, 3, padding=(0, 1, 1), **factory)
    return nn.Sequential(Norm(in_dim, 3, **factory), nn.SiLU(), conv)


def _run(conv: Any, levels: tuple[nn.Module, ...], head: nn.Sequential, x: Tensor, history: History) -> Tensor:
    x = causal(conv, x, history)
    for level in levels:
        x = level(x, history)
    norm, act, out = head
    return causal(out, act(norm(x)), history)


class VAE(nn.Module):
    """Encoder and decoder with the latent normalised channel by channel. Keys are the published ones."""

    def __init__(
        self,
        config: VAEConfig,
        operations: Any = default_operations,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype or torch.get_default_dtype()
        factory = {"device": device, "dtype": dtype}
        self.encoder = Encoder(config.dim, operations, **factory)
        self.conv1 = operations.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, **factory)
        self.conv2 = operations.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1, **factory)
        self.decoder = Decoder(config.dim, operations, **factory)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = like.new_tensor([self.config.latent_mean, self.config.latent_std])[:, None, :, None, None, None]
        return mean, std

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Video [B,3,4n+1,H,W] in -1..1 -> mean latent [B,16,n+1,H/8,W/8], normalised."""
        latent_frames(video_BCTHW.shape[2])
        history: History = {}
        groups = [video_BCTHW[:, :, :1], *video_BCTHW[:, :, 1:].split(TEMPORAL_STRIDE, dim=2)]
        moments = [self.conv1(self.encoder(group.to(self.dtype), history)) for group in groups if group.shape[2]]
        mean, std = self._scale(moments[0])
        return (torch.cat([moment[:, :LATENT_CHANNELS] for moment in moments], dim=2) - mean) / std

    def decode_groups(self, latent_BCThw: Tensor, clamp: bool = True) -> Iterator[Tensor]:
        """Latent [B,16,n+1,h,w] -> frames as they are decoded: [B,3,1,H,W], then n times [B,3,4,H,W].

        Frames are clamped to -1..1 unless `clamp` is off (training needs the gradient beyond).
        """
        history: History = {}
        mean, std = self._scale(latent_BCThw)
        latent = self.conv2((latent_BCThw * std + mean).to(self.dtype))
        for z in latent.split(1, dim=2):
            frames = self.decoder(z, history)
            yield frames.clamp(-1, 1) if clamp else frames

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Latent [B,16,n+1,h,w] -> video [B,3,4n+1,8h,8w] in -1..1."""
        return torch.cat(list(self.decode_groups(latent_BCThw)), dim=2)
