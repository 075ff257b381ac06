"""What a VAE can do, as types: every one encodes and decodes; some stream what they decode, some draw what they encode.

A model that is built, and one that is split over ranks, are both of these types, so whoever holds one need not ask.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


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


def decode_streamed(vae: Codec, latent_BCThw: Tensor) -> Iterator[Tensor]:
    """Frames [B,3,n,H,W] as early as this VAE can give them: group by group, or all at once."""
    return vae.decode_groups(latent_BCThw) if isinstance(vae, StreamingCodec) else iter([vae.decode(latent_BCThw)])
