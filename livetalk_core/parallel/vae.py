"""Wan's VAE split over rows (see `rows`), a group of frames joined as soon as it is decoded.

Beside its convolutions, rows meet in the one attention in the middle: it reads the keys and values of all rows, which
are gathered. Causal history stays where its rows are.

B batch, C channels, T frames, H W rows and columns of one rank, h w latent rows and columns, L tokens of one rank.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models.attention import attend
from ..models.ltx_vae import LTXVAE
from ..models.vae import VAE, Downsample, SpatialAttention, Upsample
from ..shapes import WAN, LatentShape, VideoShape
from .ltx_vae import SplitLTXVAE
from .rows import RowExchange, Split


class SplitVAE(RowExchange):
    """A built VAE on several ranks: they all call the same method with the whole input and get the whole output.

    `vae` is changed in place: its convolutions ask for border rows, which are zeros as long as nothing is split.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__(WAN.spatial_stride)
        self.vae = vae
        self.instead_of_padding(vae, leaves_room=True)
        self._instead_of_resampling()

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """See `VAE.encode`."""
        video = VideoShape(*video_BCTHW.shape[2:])
        shape = video.latent(WAN)
        split = self.split(shape.height)
        if split.idle:
            latent = video_BCTHW.new_empty(len(video_BCTHW), WAN.latent_channels, shape.frames, 0, shape.width)
            latent = latent.to(self.vae.dtype)
        else:
            with self.splitting(split):
                latent = self.vae.encode(split.keep(video_BCTHW, split.pixel_rows(video.height)))
        return split.join(latent, split.latent_rows)

    def decode_groups(self, latent_BCThw: Tensor, clamp: bool = True) -> Iterator[Tensor]:
        """See `VAE.decode_groups`; a group's rows are joined as soon as they are decoded."""
        shape = LatentShape(*latent_BCThw.shape[2:])
        split = self.split(shape.height)
        rows = split.pixel_rows(shape.video(WAN).height)
        groups = self._own_groups(latent_BCThw, split, clamp)
        for _ in range(shape.frames):
            with self.splitting(split):
                group = next(groups)
            yield split.join(group, rows)

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """See `VAE.decode`."""
        return torch.cat(list(self.decode_groups(latent_BCThw)), dim=2)

    def attend(self, q_TLND: Tensor, k_TLND: Tensor, v_TLND: Tensor) -> Tensor:
        """Attention of this rank's tokens to those of all rows."""
        if self.current is not None:
            keys_and_values = self.current.gather_tokens(torch.cat([k_TLND, v_TLND], dim=2))
            k_TLND, v_TLND = keys_and_values.chunk(2, dim=2)
        return attend(q_TLND, k_TLND, v_TLND)

    def _own_groups(self, latent_BCThw: Tensor, split: Split, clamp: bool) -> Iterator[Tensor]:
        own = split.keep(latent_BCThw, split.latent_rows)
        if not split.idle:
            return self.vae.decode_groups(own, clamp)
        shape = LatentShape(*own.shape[2:]).video(WAN)
        empty = own.new_empty(len(own), 3, shape.frames, 0, shape.width, dtype=self.vae.dtype)
        return iter([empty[:, :, :1], *empty[:, :, 1:].split(WAN.temporal_stride, dim=2)])

    def _instead_of_resampling(self) -> None:
        """Let the layers that read across rows without padding them ask for the neighbours' rows, too."""
        for module in self.vae.modules():
            if isinstance(module, Downsample):
                pad, conv = cast(Any, module.resample)
                pad.padding = (0, 1, 0, 0)  # left, right, top, bottom
                conv.register_forward_pre_hook(self.below)
            elif isinstance(module, Upsample):
                before: nn.Module = cast(Any, module.resample)[0]
                before.register_forward_pre_hook(self.above_and_below)
            elif isinstance(module, SpatialAttention):
                module.attention = self.attend


def split_vae(vae: VAE | LTXVAE) -> SplitVAE | SplitLTXVAE:
    """Either VAE, split over the rows."""
    return SplitVAE(vae) if isinstance(vae, VAE) else SplitLTXVAE(vae)
