"""Training of a small VAE on drawn faces: crops of short clips, the mouth and the eyes weighed more.

The loss is the mean absolute error of pixels and of their differences to neighbours (edges) and to the frame before;
the squared error of the colours of areas, without which rare colours are forgotten; and a little Kullback-Leibler
divergence that keeps latents near a unit normal.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.vae import VAE, History
from ..shapes import WAN
from .chance import generator_of, uniform
from .data import TakeSource, film
from .pictures import PictureFolder, moved
from .strips import save_strip
from .trainer import Batch, Losses, Task

KL_WEIGHT, EDGE_WEIGHT, CHANGE_WEIGHT, COLOR_WEIGHT = 1e-5, 1.0, 1.0, 20.0


class Phase(NamedTuple):
    """Up to `until` (a step), batches of `clips` clips of `frames` frames, cropped to `crop` pixels a side."""

    until: int
    clips: int
    frames: int
    crop: int


@dataclass
class VAETask(Task):
    """Learns `vae` from drawn takes, drawn in `size` pixels a side; or its decoder alone, so that latents that were
    prepared before stay as they are.

    `pictured`: share of clips that show photographs and the like in place of a take; `still`: share of batches whose
    clips do not move.
    """

    vae: VAE
    source: TakeSource
    phases: tuple[Phase, ...]
    pictures: PictureFolder = field(default_factory=PictureFolder)
    size: int = 128
    decoder_only: bool = False
    pictured: float = 0.0
    still: float = 0.0

    def __post_init__(self) -> None:
        if self.decoder_only:
            self.vae.encoder.requires_grad_(False)
            self.vae.conv1.requires_grad_(False)
        self.networks: dict[str, Any] = {"vae": self.vae}

    def __getstate__(self) -> dict[str, object]:
        """What worker processes need: no network."""
        return {**self.__dict__, "vae": None, "networks": {}}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("vae",)

    def batch(self, step: int) -> Batch:
        """`video` [B,3,T,c,c] in -1..1, `weight` [B,1,T,c,c] around 1, and whether all are `still` (1) or move (0)."""
        phase = next(phase for phase in self.phases if step < phase.until)
        chance = generator_of("vae", self.source.seed, step)
        still = uniform(chance, 0, 1) < self.still
        clips = [self._clip(step * phase.clips + clip, phase, still, chance) for clip in range(phase.clips)]
        video, weight = torch.stack(clips).split((3, 1), dim=1)
        return {"video": video.contiguous(), "weight": weight.contiguous(), "still": torch.tensor(float(still))}

    def _clip(self, number: int, phase: Phase, still: bool, chance: torch.Generator) -> Tensor:
        """One clip, with its weight as a fourth channel: [4,T,c,c]."""
        frames = 1 if still else phase.frames
        start = int(torch.randint(self.source.frames - phase.frames, (), generator=chance))
        y, x = torch.randint(self.size - phase.crop + 1, (2,), generator=chance).tolist()
        if uniform(chance, 0, 1) < self.pictured:
            picture = self.pictures.draw(phase.crop * 5 // 4, self.source.seed, number)
            video = moved(picture, frames, phase.crop, chance)
            clip = torch.cat([video, torch.ones_like(video[:1])])
        else:
            takes, index = [self.source.take(number)], start + torch.arange(frames)
            weighed = torch.cat([*film(takes, index[None], (self.size, self.size))], dim=1)[0]
            clip = weighed[:, :, y : y + phase.crop, x : x + phase.crop]
        return clip.expand(-1, phase.frames, -1, -1)

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        network, video, weight = self.networks["vae"], batch["video"], batch["weight"]
        with torch.set_grad_enabled(not self.decoder_only):
            mean, log_variance = moments(network, video)
        latent = mean + torch.randn(mean.shape, generator=noise) * (log_variance / 2).exp()
        losses = pixel_losses(decode(network, latent).float(), video, weight)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return {**losses, "loss": losses["loss"] + KL_WEIGHT * kl, "kl": kl}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """Two held-out clips above their reconstructions."""
        takes = [self.source.take(-1 - index) for index in range(2)]
        video = film(takes, torch.arange(17).expand(2, -1), (self.size, self.size)).video
        network = self.networks["vae"]
        decoded = decode(network, moments(network, video)[0]).float()
        rows = [clip[:, ::4] for pair in zip(video, decoded, strict=True) for clip in pair]
        save_strip(folder / f"sample-{step:07d}.png", rows)


def pixel_losses(decoded: Tensor, video: Tensor, weight: Tensor) -> Losses:
    """How far decoded frames [B,3,T,H,W] are from those of a clip, by [B,1,T,H,W]: `loss`, its parts, and decibels."""
    pixels = (weight * (decoded - video).abs()).mean()
    edges = torch.stack([_edges(decoded, video, weight, dim) for dim in (3, 4)]).sum()
    change = (decoded.diff(dim=2) - video.diff(dim=2)).abs().mean() if video.shape[2] > 1 else pixels * 0
    colors = F.avg_pool3d(decoded - video, (1, WAN.spatial_stride, WAN.spatial_stride)).square().mean()
    loss = pixels + EDGE_WEIGHT * edges + CHANGE_WEIGHT * change + COLOR_WEIGHT * colors
    decibels = -10 * ((decoded - video).square().mean() / 4).log10()
    return {"loss": loss, "pixels": pixels, "edges": edges, "colors": colors, "psnr": decibels}


def moments(vae: VAE, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the raw latent, [B,16,t,h,w] each, in float32; all later frames in one group."""
    history: History = {}
    video = video_BCTHW.to(vae.dtype).contiguous(memory_format=torch.channels_last_3d)
    groups = [group for group in (video[:, :, :1], video[:, :, 1:]) if group.shape[2]]
    moment = torch.cat([vae.conv1(vae.encoder(group, history)) for group in groups], dim=2).float()
    mean, log_variance = moment.split(WAN.latent_channels, dim=1)
    return mean, log_variance.clamp(-20, 10)


def decode(vae: VAE, latent_BCThw: Tensor) -> Tensor:
    """Frames [B,3,T,H,W] of a raw latent, not clamped; all later latent frames in one group."""
    history: History = {}
    latent = vae.conv2(latent_BCThw.to(vae.dtype).contiguous(memory_format=torch.channels_last_3d))
    groups = [group for group in (latent[:, :, :1], latent[:, :, 1:]) if group.shape[2]]
    return torch.cat([vae.decoder(group, history) for group in groups], dim=2)


def _edges(decoded: Tensor, video: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Weighed error of the differences between neighbours along a dimension."""
    error = (decoded.diff(dim=dim) - video.diff(dim=dim)).abs()
    return (error * weight.narrow(dim, 0, error.shape[dim])).mean()


@torch.no_grad()
def prepare(vae: VAE) -> VAE:
    """Set weights from which training goes fast: frames pass one by one and residual blocks add nothing at first."""
    modules: dict[str, Any] = dict(vae.named_modules())
    for name, module in modules.items():
        if name.endswith("time_conv"):
            same = torch.eye(module.in_channels).repeat(module.out_channels // module.in_channels, 1)
            module.weight.zero_()[:, :, -1, 0, 0] = same
            module.bias.zero_()
        elif isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
            module.weight[:, :, -1] *= 3**0.5
            if name.endswith("residual.6"):
                module.weight.zero_()
        elif name.endswith("middle.1.proj"):
            module.weight.zero_()
    return vae


@torch.no_grad()
def calibrate(vae: VAE, videos: Iterable[Tensor]) -> None:
    """Fold a scale into the outermost 1x1 convolutions so that latents of `videos` [B,3,T,H,W] have the mean and
    deviation by which the configuration normalises them; what the VAE decodes stays the same."""
    raw = torch.cat([moments(vae, video)[0].movedim(1, 0).flatten(1) for video in videos], dim=1)
    mean, std = raw.mean(1), raw.std(1)
    scale = torch.tensor(vae.config.latent_std) / std
    shift = torch.tensor(vae.config.latent_mean) - mean * scale
    out, back = vae.conv1, vae.conv2
    back.bias += back.weight.flatten(1) @ (-shift / scale)
    back.weight /= scale[None, :, None, None, None]
    out.weight[: WAN.latent_channels] *= scale[:, None, None, None, None]
    out.bias[: WAN.latent_channels] = out.bias[: WAN.latent_channels] * scale + shift
    out.bias[WAN.latent_channels :] += 2 * scale.log()
