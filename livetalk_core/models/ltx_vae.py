"""The LTX video VAE, FlashHead Lite's: 8x in time and 32x in space, 128 channels.

The encoder is causal. The decoder is not: each of its convolutions also sees the frame behind, so a chunk is decoded
whole. Keys are those of the published file (diffusers' names).

Inside, tensors are [B,T,H,W,C], as in `vae`.

B batch (1 in practice), C channels, T frames, H W rows and columns, h w those of the latent.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import LTXVAEConfig
from ..shapes import LTX
from . import operations as default_operations
from .vae import convolve

PIXEL_NORM_EPSILON = 1e-8
SHORTCUT_NORM_EPSILON = 1e-6
LOG_VARIANCE = (-30.0, 20.0)
"""The log variance is kept within these."""


class Edges(NamedTuple):
    """How often the first frame is repeated in front of a clip, and the last one behind it."""

    front: int
    behind: int


class Posterior(NamedTuple):
    """The distribution of a latent: mean [B,C,t,h,w], and one log variance [B,1,t,h,w] for all channels."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise_BCThw: Tensor) -> Tensor:
        """The draw that this noise makes."""
        return self.mean + (self.log_variance / 2).exp() * noise_BCThw.to(self.mean)


CAUSAL = Edges(2, 0)
CENTRED = Edges(1, 1)
NONE = Edges(0, 0)


def pixel_norm(x: Tensor) -> Tensor:
    """RMS norm over the channels, without weights: [..., C] -> [..., C]."""
    return F.rms_norm(x, x.shape[-1:], eps=PIXEL_NORM_EPSILON)


class Convolution(nn.Module):
    """A 3D convolution that repeats the edge frames in time and has zeros around the picture."""

    def __init__(
        self, in_dim: int, out_dim: int, edges: Edges, operations: Any, kernel: int = 3, stride: int = 1, **factory: Any
    ) -> None:
        super().__init__()
        self.edges = edges
        padding = (0, kernel // 2, kernel // 2)
        self.conv = operations.Conv3d(in_dim, out_dim, kernel, stride=stride, padding=padding, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H,W,C] -> [B,T',H',W',C']."""
        front = x[:, :1].expand(-1, self.edges.front, -1, -1, -1)
        behind = x[:, -1:].expand(-1, self.edges.behind, -1, -1, -1)
        return convolve(self.conv, torch.cat([front, x, behind], dim=1))

    def activated(self, x: Tensor) -> Tensor:
        """`forward` of SiLU(pixel norm(x)), which, where no gradient is asked for, is computed in its place."""
        if torch.is_grad_enabled():
            return self(F.silu(pixel_norm(x)))
        front, behind = self.edges
        joined = x.new_empty(len(x), front + x.shape[1] + behind, *x.shape[2:])
        last = front + x.shape[1] - 1
        joined[:, front : last + 1] = pixel_norm(x)
        F.silu(joined[:, front : last + 1], inplace=True)
        joined[:, :front] = joined[:, front : front + 1]
        joined[:, last + 1 :] = joined[:, last : last + 1]
        return convolve(self.conv, joined)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which has a norm and weights where the width changes."""

    def __init__(self, in_dim: int, out_dim: int, edges: Edges, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv1 = Convolution(in_dim, out_dim, edges, operations, **factory)
        self.conv2 = Convolution(out_dim, out_dim, edges, operations, **factory)
        changes = in_dim != out_dim
        self.norm3 = operations.LayerNorm(in_dim, eps=SHORTCUT_NORM_EPSILON, **factory) if changes else nn.Identity()
        self.conv_shortcut = (
            Convolution(in_dim, out_dim, NONE, operations, kernel=1, **factory) if changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H,W,C] -> [B,T,H,W,C']."""
        return self.conv_shortcut(self.norm3(x)) + self.conv2.activated(self.conv1.activated(x))


class Level(nn.Module):
    """Residual blocks of one width."""

    def __init__(self, dim: int, count: int, edges: Edges, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(dim, dim, edges, operations, **factory) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H,W,C] -> [B,T,H,W,C]."""
        return _run(self.resnets, x)


class Down(Level):
    """A level, then half the rows, columns and frames after the first, and the next level's width."""

    def __init__(self, dim: int, out_dim: int, count: int, operations: Any, **factory: Any) -> None:
        super().__init__(dim, count, CAUSAL, operations, **factory)
        self.downsamplers = nn.ModuleList([Convolution(dim, dim, CAUSAL, operations, stride=2, **factory)])
        self.conv_out = _resized(dim, out_dim, CAUSAL, operations, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B,2T-1,2H,2W,C] -> [B,T,H,W,C']."""
        return self.conv_out(_run(self.downsamplers, super().forward(x)))


class Upsample(nn.Module):
    """Twice the rows, columns and frames after the first: channels of a convolution become places."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = Convolution(dim, 8 * dim, CENTRED, operations, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H,W,C] -> [B,2T-1,2H,2W,C]."""
        doubled = rearrange(self.conv(x), "b t h w (c f r s) -> b (t f) (h r) (w s) c", f=2, r=2, s=2)
        return doubled[:, 1:]


class Up(Level):
    """The level's width, then twice the size, then the level."""

    def __init__(self, in_dim: int, dim: int, count: int, operations: Any, **factory: Any) -> None:
        super().__init__(dim, count, CENTRED, operations, **factory)
        self.conv_in = _resized(in_dim, dim, CENTRED, operations, **factory)
        self.upsamplers = nn.ModuleList([Upsample(dim, operations, **factory)])

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,H,W,C] -> [B,2T-1,2H,2W,C']."""
        return super().forward(_run(self.upsamplers, self.conv_in(x)))


def _resized(in_dim: int, out_dim: int, edges: Edges, operations: Any, **factory: Any) -> nn.Module:
    return ResidualBlock(in_dim, out_dim, edges, operations, **factory) if in_dim != out_dim else nn.Identity()


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class Encoder(nn.Module):
    """Video to the mean of its latent and one log variance for all channels."""

    def __init__(self, config: LTXVAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths, (*counts, last_count, middle_count) = config.block_out_channels, config.layers_per_block
        self.patch = config.patch_size
        self.conv_in = Convolution(3 * self.patch**2, widths[0], CAUSAL, operations, **factory)
        levels: list[nn.Module] = [
            Down(dim, next_dim, count, operations, **factory)
            for (dim, next_dim), count in zip(itertools.pairwise(widths), counts, strict=True)
        ]
        levels.append(Level(widths[-1], last_count, CAUSAL, operations, **factory))
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = Level(widths[-1], middle_count, CAUSAL, operations, **factory)
        self.conv_out = Convolution(widths[-1], config.latent_channels + 1, CAUSAL, operations, **factory)

    def forward(self, video_BCTHW: Tensor) -> Posterior:
        """[B,3,8n+1,32h,32w] in -1..1 -> the distribution of [B,128,n+1,h,w]."""
        patches = rearrange(
            video_BCTHW, "b c t (h row) (w column) -> b t h w (c column row)", row=self.patch, column=self.patch
        )
        x = _run((*self.down_blocks, self.mid_block), self.conv_in(patches.contiguous()))
        moments = self.conv_out.activated(x).movedim(-1, 1)
        return Posterior(moments[:, :-1], moments[:, -1:].clamp(*LOG_VARIANCE))


class Decoder(nn.Module):
    """Latent to video."""

    def __init__(self, config: LTXVAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths, counts = config.block_out_channels[::-1], config.layers_per_block[::-1]
        self.patch = config.patch_size
        self.conv_in = Convolution(config.latent_channels, widths[0], CENTRED, operations, **factory)
        self.mid_block = Level(widths[0], counts[0], CENTRED, operations, **factory)
        levels: list[nn.Module] = [Level(widths[0], counts[1], CENTRED, operations, **factory)]
        levels += [
            Up(in_dim, dim, count, operations, **factory)
            for (in_dim, dim), count in zip(itertools.pairwise(widths), counts[2:], strict=True)
        ]
        self.up_blocks = nn.ModuleList(levels)
        self.conv_out = Convolution(widths[-1], 3 * self.patch**2, CENTRED, operations, **factory)

    def forward(self, z_BCThw: Tensor) -> Tensor:
        """[B,128,n+1,h,w] -> [B,3,8n+1,32h,32w]."""
        x = _run((self.mid_block, *self.up_blocks), self.conv_in(z_BCThw.movedim(1, -1).contiguous()))
        return rearrange(
            self.conv_out.activated(x),
            "b t h w (c column row) -> b c t (h row) (w column)",
            row=self.patch,
            column=self.patch,
        )


class LTXVAE(nn.Module):
    """Encoder and decoder, with the latent normalised channel by channel by numbers that the file brings."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(
        self,
        config: LTXVAEConfig,
        operations: Any = default_operations,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype or torch.get_default_dtype()
        factory = {"device": device, "dtype": dtype}
        self.register_buffer("latents_mean", torch.empty(config.latent_channels, **cast(Any, factory)))
        self.register_buffer("latents_std", torch.empty(config.latent_channels, **cast(Any, factory)))
        self.encoder = Encoder(config, operations, **factory)
        self.decoder = Decoder(config, operations, **factory)

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Video [B,3,8n+1,32h,32w] in -1..1 -> mean latent [B,128,n+1,h,w], normalised."""
        return self.normalised(self.posterior(video_BCTHW).mean)

    def encode_sample(self, video_BCTHW: Tensor, noise_BCThw: Tensor) -> Tensor:
        """As `encode`, moved from the mean by the deviation times `noise`, which is of the latent's shape."""
        return self.normalised(self.posterior(video_BCTHW).sample(noise_BCThw))

    def posterior(self, video_BCTHW: Tensor) -> Posterior:
        """Video [B,3,8n+1,32h,32w] in -1..1 -> the distribution of its latent, not normalised."""
        frames, height, width = video_BCTHW.shape[2:]
        LTX.latent_frames(frames)
        LTX.check_size(height, width)
        return self.encoder(video_BCTHW.to(self.dtype))

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Latent [B,128,n+1,h,w] -> video [B,3,8n+1,32h,32w], which may leave -1..1 a little."""
        mean, std = self._scale(latent_BCThw)
        return self.decoder((latent_BCThw * std + mean).to(self.dtype))

    def normalised(self, latent_BCThw: Tensor) -> Tensor:
        """The latent as the transformer knows it: each channel less its mean, over its deviation."""
        mean, std = self._scale(latent_BCThw)
        return (latent_BCThw - mean) / std

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.latents_mean.to(like)[:, None, None, None], self.latents_std.to(like)[:, None, None, None]
