"""Training of a VAE's encoder on the VAE's own round trips.

A stream decodes and encodes again with every chunk: the last frames of a chunk, colours matched, are encoded as the
first of the next. What that loses adds up. Here clips go that way several times, and the encoder learns to find, after
any number of trips, the latent that the first encoder gave the clip itself. So it undoes what the decoder does, and
latents, with all that was trained on them, stay as they were.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.color import ColorStatistics, match_color
from ..shapes import WAN
from .trainer import Batch, Losses
from .vae import VAETask, decode, moments

HELD = 3
"""At most so many latent frames more that a still clip is held for before its tail is encoded again."""


@dataclass
class TripsTask(VAETask):
    """Trains the encoder of `vae` on up to `trips` round trips."""

    trips: int = 8

    def __post_init__(self) -> None:
        self._first = copy.deepcopy(self.vae).requires_grad_(False)
        self.vae.decoder.requires_grad_(False)
        self.vae.conv2.requires_grad_(False)
        self.networks = {"vae": self.vae}

    def __getstate__(self) -> dict[str, object]:
        """See `VAETask`."""
        return {**super().__getstate__(), "_first": None}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """The squared distance of the latents of all trips to the first encoder's, in deviations of the channels."""
        network, video = self.networks["vae"], batch["video"]
        trips = int(torch.randint(self.trips + 1, (), generator=noise))
        held = int(torch.randint(HELD + 1, (), generator=noise)) if bool(batch["still"]) else 0
        colors, weight = ColorStatistics.of(video), _latent_weight(batch["weight"])
        with torch.no_grad():
            target = moments(self._first, video)[0]
        off: list[Tensor] = []
        seen = video
        for trip in range(trips + 1):
            mean = moments(network, seen)[0]
            off.append((weight * self._apart(mean, target)).mean())
            if trip < trips:
                seen = self._trip(mean.detach(), held, video.shape[2], colors)
        return {"loss": torch.stack(off).mean(), "first": off[0], "last": off[-1], "trips": torch.tensor(float(trips))}

    @torch.no_grad()
    def _trip(self, latent: Tensor, held: int, frames: int, colors: ColorStatistics) -> Tensor:
        """The last `frames` frames of a latent that is held for `held` latent frames more."""
        longer = torch.cat([latent, latent[:, :, -1:].expand(-1, -1, held, -1, -1)], dim=2) if held else latent
        decoded = decode(self.networks["vae"], longer).float().clamp(-1, 1)
        return match_color(decoded[:, :, -frames:], colors, 1.0)

    def _apart(self, latent: Tensor, other: Tensor) -> Tensor:
        """Squared difference of raw latents, in deviations of the channels."""
        return ((latent - other) / latent.new_tensor(self.vae.config.latent_std)[:, None, None, None]).square()


def _latent_weight(weight: Tensor) -> Tensor:
    """Weight of pixels [B,1,T,H,W] as one of latent points, 1 on average: [B,1,1,h,w]."""
    pooled = F.avg_pool2d(weight.mean(2), WAN.spatial_stride)[:, :, None]
    return pooled / pooled.mean((1, 2, 3, 4), keepdim=True)
