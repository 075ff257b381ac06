"""What a VAE can do, as types: every one encodes and decodes; some stream what they decode, some draw what they encode.

A model that is built, and one that is split over ranks, are both of these types, so whoever holds one need not ask.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..config import LTXVAEConfig, VAEConfig
from ..errors import InputError
from .ltx_vae import LTXVAE
from .vae import VAE


class Codec(Protocol):
    """Video to latent and back."""

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Video [B,3,T,H,W] in -1..1 -> the mean of its latent [B,C,t,h,w], normalised."""
        ...

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Latent [B,C,t,h,w] -> video [B,3,T,H,W]."""
        ...


@runtime_checkable
class StreamingCodec(Codec, Protocol):
    """One whose frames depend on no later latent: it gives them group by group."""

    def decode_groups(self, latent_BCThw: Tensor) -> Iterator[Tensor]:
        """Latent [B,C,t,h,w] -> frames [B,3,n,H,W] as they are decoded, together what `decode` gives."""
        ...


@runtime_checkable
class SampledCodec(Codec, Protocol):
    """One whose model was trained on draws from the encoder's distribution, not on its mean."""

    def encode_sample(self, video_BCTHW: Tensor, noise_BCThw: Tensor) -> Tensor:
        """As `encode`, moved from the mean by the deviation times `noise`, which is of the latent's shape."""
        ...


def build_vae(
    config: VAEConfig | LTXVAEConfig, operations: Any, device: torch.device | str | None, dtype: torch.dtype
) -> VAE | LTXVAE:
    """The VAE of these widths."""
    if isinstance(config, LTXVAEConfig):
        return LTXVAE(config, operations, device, dtype)
    return VAE(config, operations, device, dtype)


def encode_drawn(vae: Codec, video_BCTHW: Tensor, noise_BCThw: Tensor | None) -> Tensor:
    """The mean of a video's latent, or the draw that `noise` makes; an `InputError` where this VAE draws none."""
    if noise_BCThw is None:
        return vae.encode(video_BCTHW)
    if not isinstance(vae, SampledCodec):
        raise InputError("a VAE that gives the mean of a latent alone; this model needs the LTX VAE: choose that file")
    return vae.encode_sample(video_BCTHW, noise_BCThw)


def decode_streamed(vae: Codec, latent_BCThw: Tensor) -> Iterator[Tensor]:
    """Frames [B,3,n,H,W] as early as this VAE can give them: group by group, or all at once."""
    return vae.decode_groups(latent_BCThw) if isinstance(vae, StreamingCodec) else iter([vae.decode(latent_BCThw)])
