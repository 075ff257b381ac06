"""The LTX VAE split over rows (see `rows`): a chunk is joined when all of it is decoded.

In space its convolutions are padded with zeros, which become the neighbours' rows; in time with edge frames, of which
each rank repeats its own rows.
"""

from torch import Tensor

from ..models.ltx_vae import LTXVAE, Posterior
from ..shapes import LTX, LatentShape, VideoShape
from .rows import RowExchange


class SplitLTXVAE(RowExchange):
    """A built LTX VAE on several ranks: all call the same method with the whole input and get the whole output.

    `vae` is changed in place: its convolutions ask for border rows, which are zeros as long as nothing is split.
    """

    def __init__(self, vae: LTXVAE) -> None:
        super().__init__(LTX.spatial_stride)
        self.vae = vae
        self.instead_of_padding(vae)

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """See `LTXVAE.encode`."""
        return self.vae.normalised(self.posterior(video_BCTHW).mean)

    def encode_sample(self, video_BCTHW: Tensor, noise_BCThw: Tensor) -> Tensor:
        """See `LTXVAE.encode_sample`; all ranks bring the same noise."""
        return self.vae.normalised(self.posterior(video_BCTHW).sample(noise_BCThw))

    def posterior(self, video_BCTHW: Tensor) -> Posterior:
        """See `LTXVAE.posterior`."""
        shape = VideoShape(*video_BCTHW.shape[2:])
        LTX.check_size(shape.height, shape.width)
        split = self.split(shape.latent(LTX).height)
        own = split.keep(video_BCTHW, split.pixel_rows(shape.height))
        if split.idle:
            posterior = self._no_rows(own)
        else:
            with self.splitting(split):
                posterior = self.vae.posterior(own)
        return Posterior(*(split.join(part, split.latent_rows) for part in posterior))

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """See `LTXVAE.decode`."""
        shape = LatentShape(*latent_BCThw.shape[2:])
        split = self.split(shape.height)
        own = split.keep(latent_BCThw, split.latent_rows)
        if split.idle:
            size = LatentShape(*own.shape[2:]).video(LTX)
            video = own.new_empty(len(own), 3, *size, dtype=self.vae.dtype)
        else:
            with self.splitting(split):
                video = self.vae.decode(own)
        return split.join(video, split.pixel_rows(shape.video(LTX).height))

    def _no_rows(self, video_BCTHW: Tensor) -> Posterior:
        """What a rank without rows adds to the others' distribution."""
        size = VideoShape(*video_BCTHW.shape[2:]).latent(LTX)
        channels = (self.vae.config.latent_channels, 1)
        mean, log_variance = (
            video_BCTHW.new_empty(len(video_BCTHW), count, *size, dtype=self.vae.dtype) for count in channels
        )
        return Posterior(mean, log_variance)
