"""Stage 1, adaptation: flow matching on chunks as the stream has them (rectified flow, arXiv 2209.03003).

One or two clean motion latents at random, the reference frame from outside the clip (or its first frame, as in the
first chunk of a stream), sound and picture left out at times so that guidance works. Motion latents do not count in
the loss; mouth and eyes count more.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.audio_encoder import windows
from ..models.vae import VAE
from ..sampling.schedule import sigmas
from .chance import generator_of
from .flow import SHIFT, Condition, Denoiser, noised, random_levels, sample, spread
from .latents import Pool
from .strips import save_strip
from .trainer import Batch, Losses, Task
from .vae import decode

ONE_MOTION_LATENT = 0.2
"""Share of samples with one clean latent: the first chunk of a stream; the others have two."""


@dataclass
class Adaptation(Task):
    """Trains `transformer` on a prepared pool, `clips` windows a batch."""

    transformer: Denoiser
    vae: VAE
    pool: Pool
    clips: int = 4
    drop_audio: float = 0.1
    drop_image: float = 0.05
    networks: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.networks = {"transformer": self.transformer}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("transformer",)

    def batch(self, step: int) -> Batch:
        """See `Pool.draw`."""
        return self.pool.draw(step, self.clips)

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        clean = batch["latent"]
        motion = 1 if float(torch.rand((), generator=noise)) < ONE_MOTION_LATENT else 2
        given = dropped(condition_of(batch, clean[:, :, :motion]), self.drop_audio, self.drop_image, noise)
        sigma_B = random_levels(len(clean), noise)
        start = torch.randn(clean.shape, generator=noise)
        found = self.networks["transformer"](noised(clean, start, sigma_B), sigma_B, given)
        error = ((found - (start - clean)).square() * batch["weight"][:, None])[:, :, motion:].mean((1, 2, 3, 4))
        return {"loss": error.mean()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """First chunks of two takes, 4 and 20 steps, under what was drawn."""
        batch = self.pool.draw(-1, 2)
        given = condition_of(batch, batch["latent"][:, :, :1])
        rows = [batch["latent"]]
        for steps in (4, 20):
            levels = sigmas(steps, SHIFT)
            rows.append(sample(self.networks["transformer"], given, levels, generator_of("sample")))
        clips = [decode_normalized(self.vae, row)[:, :, ::4].clamp(-1, 1) for row in rows]
        save_strip(folder / f"sample-{step:07d}.png", [clip[take] for take in range(2) for clip in clips])


def condition_of(batch: Batch, motion: Tensor) -> Condition:
    """The condition of a drawn batch."""
    length = 1 + 4 * (batch["cond"].shape[2] - 1)
    starts = batch["start"].tolist()
    audio = [windows(sound, start, start + length) for sound, start in zip(batch["sound"], starts, strict=True)]
    return Condition(batch["cond"], batch["clip"], batch["text"], torch.stack(audio), motion)


def dropped(given: Condition, audio: float, image: float, chance: torch.Generator) -> Condition:
    """Some samples of a batch lose their sound, some their picture."""
    kept_audio, kept_image = (
        (torch.rand(len(given.cond), generator=chance) >= share).float().to(given.cond.device)
        for share in (audio, image)
    )
    return given._replace(
        audio=given.audio * spread(kept_audio),
        cond=given.cond * spread(kept_image),
        clip=given.clip * kept_image[:, None, None],
    )


def decode_normalized(vae: VAE, latent: Tensor) -> Tensor:
    """Frames [B,3,T,H,W] of normalised latents, not clamped; all later latent frames in one group."""
    mean, std = latent.new_tensor([vae.config.latent_mean, vae.config.latent_std])[:, None, :, None, None, None]
    return decode(vae, latent * std + mean).float()
