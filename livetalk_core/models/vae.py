"""Wan 2.1's causal video VAE: whole, or streamed group by group with equal results.

Time flows one way: each convolution looks at its own frame and the two before it. A `History` keeps
those between groups of frames; the call that owns a clip makes it and passes it down, so a streamed
decode is the whole one. The first latent frame stands for one video frame, each later one for four.

Inside, tensors are [B,T,H,W,C]: channels last in memory, which every layer keeps and convolutions compute fastest in.

B batch (1 in practice), C channels, T frames in this group, F frames of all clips, H W pixels, h w latent points.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VAEConfig
from ..shapes import WAN
from . import operations as default_operations
from .attention import AttentionFunction, attend
from .constants import Constants

TEMPORAL_STRIDE, LATENT_CHANNELS = WAN.temporal_stride, WAN.latent_channels
WIDTHS = (1, 2, 4, 4)
BLOCKS_PER_LEVEL = 2
TEMPORAL_LEVELS = (False, True, True)
"""Which of the three downsampling levels of the encoder also halve the frames; the decoder's are reversed."""
BEGUN = 2 * (BLOCKS_PER_LEVEL + 2) - 1
"""Layers of the decoder before its last doubling of time: small pictures, quickest when many frames are computed."""
EARLY = 2
"""Latent frames behind the first that are begun before the rest, so that a chunk's first new frames leave soon: its
very first frames repeat the chunk before."""

History = dict[nn.Module, Tensor]
"""The last input frames of each causal convolution, each a copy: a view would keep the whole group's buffer alive."""


def convolve(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A convolution (a layer of any `operations`) with channels last on both sides: [B,...,C] -> [B,...,C']."""
    return conv(x.movedim(-1, 1)).movedim(1, -1)


def causal(conv: Any, x_BTHWC: Tensor, history: History) -> Tensor:
    """Convolve in 3D with the frames before this group: zeros at the clip's start."""
    if torch.is_grad_enabled() and not _rows_beyond(conv):
        joined = torch.cat([_past(conv, x_BTHWC, history), x_BTHWC], dim=1)
        return _remembered(conv, joined, history)
    room, present = _behind_the_past(conv, x_BTHWC, history)
    present.copy_(x_BTHWC)
    return _remembered(conv, room, history)


def activated_causal(norm: "Norm", conv: Any, x_BTHWC: Tensor, history: History) -> Tensor:
    """`causal` of SiLU(norm(x)), which, where no gradient is asked for, is computed in its place behind the past."""
    if torch.is_grad_enabled():
        return causal(conv, F.silu(norm(x_BTHWC)), history)
    room, present = _behind_the_past(conv, x_BTHWC, history)
    F.silu(norm(x_BTHWC, out=present), inplace=True)
    return _remembered(conv, room, history)


def _behind_the_past(conv: Any, x_BTHWC: Tensor, history: History) -> tuple[Tensor, Tensor]:
    """What `conv` is to be given, the past in it, and of that the place of `x`, which is not filled.

    The first has so many rows more on either side as the convolution is to get from elsewhere.
    """
    past, beyond = _past(conv, x_BTHWC, history), _rows_beyond(conv)
    batch, frames, height, *others = x_BTHWC.shape
    room = x_BTHWC.new_empty(batch, past.shape[1] + frames, height + 2 * beyond, *others)
    room[:, : past.shape[1]] = past
    return room, room[:, past.shape[1] :, beyond : beyond + height]


def _rows_beyond(conv: Any) -> int:
    """How many rows on either side a convolution that does not pad them is given by others (parallel/rows.py)."""
    return int(hasattr(conv, "fill_beyond"))


def _past(conv: Any, x_BTHWC: Tensor, history: History) -> Tensor:
    if conv in history:
        return history[conv]
    batch, _, height, *others = x_BTHWC.shape
    return x_BTHWC.new_zeros(batch, 1, height + 2 * _rows_beyond(conv), *others).expand(
        -1, conv.kernel_size[0] - 1, -1, -1, -1
    )


def _remembered(conv: Any, room_BTHWC: Tensor, history: History) -> Tensor:
    past = conv.kernel_size[0] - 1
    if _rows_beyond(conv):
        conv.fill_beyond(room_BTHWC[:, past:])  # the past has its own, from when it was present
    history[conv] = room_BTHWC[:, -past:].clone()
    return convolve(conv, room_BTHWC)


def per_frame(conv: Callable[[Tensor], Tensor], x_BTHWC: Tensor) -> Tensor:
    """Convolve every frame in 2D."""
    return convolve(conv, x_BTHWC.flatten(0, 1)).unflatten(0, x_BTHWC.shape[:2])


class Norm(nn.Module):
    """RMS norm over the channels."""

    def __init__(self, dim: int, spatial_dims: int, **factory: Any) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim, *[1] * spatial_dims, **factory))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[..., C] -> [..., C], written to `out` where given."""
        root = x.shape[-1] ** 0.5
        least = max(1e-12, 2 * root / torch.finfo(x.dtype).max)  # float16 has neither 1e-12 nor what zeros then take
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(least)
        return torch.mul(x, root / length, out=out).mul_(self.gamma.to(x).flatten())


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
        """[B,T,H,W,C] -> [B,T,H,W,C']."""
        norm1, _, conv1, norm2, _, _, conv2 = cast(Any, self.residual)
        y = activated_causal(norm1, conv1, x, history)
        y = activated_causal(norm2, conv2, y, history)
        return convolve(self.shortcut, x) + y


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
        """[B,T,H,W,C] -> [B,T,H,W,C]; needs no history."""
        qkv = rearrange(per_frame(self.to_qkv, self.norm(x)), "b t h w (three c) -> three (b t) (h w) 1 c", three=3)
        out = self.attention(*qkv).reshape(x.shape)
        return x + per_frame(self.proj, out)


class Downsample(nn.Module):
    """Halves height and width and, if `temporal`, the frames after the first."""

    def __init__(self, dim: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), operations.Conv2d(dim, dim, 3, stride=(2, 2), **factory)
        )
        self.time_conv = operations.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1), **factory) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,T,H,W,C] -> [B,T or T/2,H/2,W/2,C]; the clip's first frame passes time unchanged."""
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        past = history.get(self.time_conv)
        history[self.time_conv] = x[:, -1:].clone()
        return x if past is None else convolve(self.time_conv, torch.cat([past, x], dim=1))


class Upsample(nn.Module):
    """Doubles height and width, halves the channels and, if `temporal`, doubles the frames after the first."""

    def __init__(self, dim: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Identity(),  # nearest doubling in the published layout: done by the convolution
            operations.Conv2d(dim, dim // 2, 3, padding=1, **factory),
        )
        self.time_conv = operations.Conv3d(dim, 2 * dim, (3, 1, 1), **factory) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[B,T,H,W,C] -> [B,T or 2T,2H,2W,C/2]; the clip's first frame is not doubled, nor seen by later ones."""
        if self.time_conv is not None:
            if self.time_conv in history:
                doubled = causal(self.time_conv, x, history)
                x = rearrange(doubled, "b t h w (two c) -> b (t two) h w c", two=2)
            else:
                history[self.time_conv] = torch.zeros_like(x).expand(-1, 2, -1, -1, -1)
        return per_frame(self._double, x)

    def _double(self, x_FCHW: Tensor) -> Tensor:
        """Each pixel becomes four, then the convolution: [F,C,H,W] -> [F,C/2,2H,2W].

        Of nine taps on doubled pixels, those that meet the same pixel are added beforehand. Four are left: those of a
        transposed convolution. Where `conv` does not pad its rows, `before` has added the row beyond either border.
        """
        before, conv = cast(tuple[nn.Module, nn.Conv2d], tuple(self.resample))
        x_FCHW = before(x_FCHW)
        taps = F.pad(conv.weight.to(x_FCHW), (1, 1, 1, 1))
        taps = taps[..., 1:, :] + taps[..., :-1, :]
        taps = taps[..., 1:] + taps[..., :-1]
        kernel = taps.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        bias = None if conv.bias is None else conv.bias.to(x_FCHW)
        rows, columns = cast(tuple[int, int], conv.padding)
        return F.conv_transpose2d(x_FCHW, kernel, bias, stride=2, padding=(3 - 2 * rows, 3 - 2 * columns))


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
        x = _run((*self.downsamples, *self.middle), causal(self.conv1, x.movedim(1, -1).contiguous(), history), history)
        return _finish(self.head, x, history)


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
        return self.finish(self.begin(z, history), history)

    def begin(self, z: Tensor, history: History) -> Tensor:
        """[B,16,t,h,w] -> [B,t or 2t,2h,2w,C]: all but the last doubling of time. The clip's first must come alone."""
        x = causal(self.conv1, z.movedim(1, -1).contiguous(), history)
        return _run((*self.middle, *self.upsamples[:BEGUN]), x, history)

    def finish(self, begun: Tensor, history: History) -> Tensor:
        """The rest, for any part of what was begun: [B,2t,2h,2w,C] -> [B,3,4t,8h,8w]."""
        return _finish(self.head, _run(self.upsamples[BEGUN:], begun, history), history)


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


def _run(levels: Iterable[nn.Module], x_BTHWC: Tensor, history: History) -> Tensor:
    for level in levels:
        x_BTHWC = level(x_BTHWC, history)
    return x_BTHWC


def _finish(head: nn.Sequential, x_BTHWC: Tensor, history: History) -> Tensor:
    norm, _, conv = cast(Any, head)
    return activated_causal(norm, conv, x_BTHWC, history).movedim(-1, 1)


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
        self._statistics = Constants([config.latent_mean, config.latent_std])
        factory = {"device": device, "dtype": dtype}
        self.encoder = Encoder(config.dim, operations, **factory)
        self.conv1 = operations.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, **factory)
        self.conv2 = operations.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1, **factory)
        self.decoder = Decoder(config.dim, operations, **factory)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self._statistics.on(like)[:, None, :, None, None, None]
        return mean, std

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Video [B,3,4n+1,H,W] in -1..1 -> mean latent [B,16,n+1,H/8,W/8], normalised."""
        WAN.latent_frames(video_BCTHW.shape[2])
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
        for z in (part for part in latent.tensor_split([1, 1 + EARLY], dim=2) if part.shape[2]):
            for begun in self.decoder.begin(z, history).split(TEMPORAL_STRIDE // 2, dim=1):
                frames = self.decoder.finish(begun, history)
                yield frames.clamp(-1, 1) if clamp else frames

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Latent [B,16,n+1,h,w] -> video [B,3,4n+1,8h,8w] in -1..1."""
        return torch.cat(list(self.decode_groups(latent_BCThw)), dim=2)
