"""Training of a VAE's decoder on the VAE's own round trips.

A stream decodes and encodes again with every chunk: the last frames of a chunk, colours matched, are encoded as the
first of the next. What that loses adds up. Here the decoder learns to make frames that the encoder, which stays as it
is, finds the given latent in again; also of latents that have made some trips, which are to lead back to the clip's
own. So trips lose less, and latents, with all that was trained on them, stay as they were.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.color import ColorStatistics, match_color
from ..shapes import WAN
from .trainer import Batch, Losses
from .vae import VAETask, decode, moments, pixel_losses

HANDED_ON = 5
"""Last frames of a chunk that the next one starts from."""


@dataclass
class TripsTask(VAETask):
    """Trains the decoder of `vae` on latents of up to `trips` round trips.

    `returned`: weight of the squared distance of a decoded clip's latent to the clip's own, in deviations of the
    channels.
    """

    trips: int = 5
    returned: float = 15.0
    decoder_only: bool = True

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """`VAETask`'s errors of the frames that are decoded after the trips, and how far their latent is off."""
        network, video, weight = self.networks["vae"], batch["video"], batch["weight"]
        colors = ColorStatistics.of(video[:, :, -HANDED_ON:])
        trips = int(torch.randint(self.trips + 1, (), generator=noise))
        with torch.no_grad():
            latent = moments(network, video)[0]
            handed_on = moments(network, video[:, :, -HANDED_ON:])[0]
            for _ in range(trips):
                latent = moments(network, match_color(_handed_on(decode(network, latent)), colors, 1.0))[0]
        decoded = decode(network, latent).float()
        frames = decoded.shape[2]
        losses = pixel_losses(decoded, video[:, :, -frames:], weight[:, :, -frames:])
        mean = moments(network, _handed_on(decoded))[0]
        returned = (_latent_weight(weight) * self._apart(mean, handed_on)).mean()
        return {**losses, "loss": losses["loss"] + self.returned * returned, "returned": returned}

    def _apart(self, latent: Tensor, other: Tensor) -> Tensor:
        """Squared difference of raw latents, in deviations of the channels."""
        return ((latent - other) / latent.new_tensor(self.vae.config.latent_std)[:, None, None, None]).square()


def _handed_on(decoded: Tensor) -> Tensor:
    """The last of decoded frames [B,3,T,H,W], within their range."""
    return decoded[:, :, -HANDED_ON:].float().clamp(-1, 1)


def _latent_weight(weight: Tensor) -> Tensor:
    """Weight of pixels [B,1,T,H,W] as one of latent points, 1 on average: [B,1,1,h,w]."""
    pooled = F.avg_pool2d(weight.mean(2), WAN.spatial_stride)[:, :, None]
    return pooled / pooled.mean((1, 2, 3, 4), keepdim=True)
