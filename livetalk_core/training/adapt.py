"""Stage 1, adaptation: flow matching on chunks as the stream has them (rectified flow, arXiv 2209.03003).

One or two clean motion latents at random, the reference frame from outside the clip (or its first frame, as in the
first chunk of a stream), sound and picture left out at times so that guidance works. Motion latents do not count in
the loss; mouth and eyes count more.

In a stream the motion latents are the model's own, and softer than real ones. Those of some samples are softened here,
while what is to be found stays sharp: so the model learns to take lost detail from the portrait, not from the past.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.audio_encoder import windows
from ..models.color import ColorStatistics, match_color
from ..models.vae import VAE
from ..sampling.schedule import sigmas
from .chance import generator_of, happens
from .flow import SHIFT, Condition, Denoiser, noised, normal, random_levels, sample, spread
from .latents import Pool, encode_window
from .strips import save_strip
from .trainer import Batch, Losses, Task
from .vae import decode

ONE_MOTION_LATENT = 0.2
"""Share of samples with one clean latent: the first chunk of a stream; the others have two."""
SOFTEST = 1.2
"""Greatest deviation of the blur of softened motion latents, in latent points."""
REACH = 3
"""Latent points that the blur looks at on either side."""
ROUGHEST = 0.6
"""Greatest deviation of the noise that rough motion latents have in them."""
SPOTS, GREATEST = 4, 0.9
"""Points a side by whose chance spots of rough latents are another sample's, and how much of it shows there at most."""
HELD_BATCHES = 4
"""Of takes that are held out, on which the loss is told."""
TRIPPED = 0.35
"""Share of batches whose motion latents make round trips."""


@dataclass
class Adaptation(Task):
    """Trains `transformer` on a prepared pool, `clips` windows a batch.

    `soften`, `roughen`: shares of the samples whose motion latents are blurred, and have noise and spots of another
    sample in them; `trips`: how often at most they are decoded, their colours matched, and encoded again. `levels`:
    the noise levels that are learned, each as often as the others; without any, all that there are.
    """

    transformer: Denoiser
    vae: VAE
    pool: Pool
    clips: int = 4
    drop_audio: float = 0.1
    drop_image: float = 0.05
    soften: float = 0.0
    roughen: float = 0.0
    trips: int = 0
    drop_text: float = 0.0
    levels: Sequence[float] = ()
    networks: dict[str, Any] = field(init=False)
    frozen: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.networks = {"transformer": self.transformer}
        self.frozen = {"vae": self.vae}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("transformer",)

    def batch(self, step: int) -> Batch:
        """See `Pool.draw`."""
        return self.pool.draw(step, self.clips)

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        clean = batch["latent"]
        motion = 1 if happens(ONE_MOTION_LATENT, noise) else 2
        condition = dropped(condition_of(batch, clean[:, :, :motion]), self.drop_audio, self.drop_image, noise)
        if self.drop_text:
            kept = torch.rand(len(clean), generator=noise).to(clean.device) >= self.drop_text
            condition = condition._replace(text=condition.text * kept[:, None, None])
        if motion > 1:
            condition = condition._replace(motion=self._worn(condition.motion, batch["reference"], noise))
        sigma_B, start = self._levels(len(clean), noise, clean.device), normal(clean.shape, noise, clean.device)
        velocity = self.transformer(noised(clean, start, sigma_B), sigma_B, condition)
        error = ((velocity - (start - clean)).square() * batch["weight"][:, None])[:, :, motion:].mean((1, 2, 3, 4))
        return {"loss": error.mean()}

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """The loss on `HELD_BATCHES` batches of takes that are held out, with the same noise every time."""
        if not self.pool.held:
            return {}
        losses = [
            self.losses(
                on_device(self.pool.draw_held(number, self.clips), self.transformer), 0, generator_of("held", number)
            )
            for number in range(HELD_BATCHES)
        ]
        return {"held out": sum(float(each["loss"]) for each in losses) / len(losses)}

    def _levels(self, count: int, chance: torch.Generator, device: torch.device) -> Tensor:
        if not self.levels:
            return random_levels(count, chance, device)
        return torch.tensor(self.levels)[torch.randint(len(self.levels), (count,), generator=chance)].to(device)

    @torch.no_grad()
    def _worn(self, motion: Tensor, reference: Tensor, chance: torch.Generator) -> Tensor:
        """Motion latents as a stream may hand them on."""
        if self.trips and happens(TRIPPED, chance):
            colors = ColorStatistics.of(reference)
            for _ in range(1 + int(torch.randint(self.trips, (), generator=chance))):
                frames = match_color(decode_normalized(self.vae, motion).clamp(-1, 1), colors, 1.0)
                motion = encode_window(self.vae, frames)
        motion = softened(motion, self.soften, chance) if self.soften else motion
        return roughened(motion, self.roughen, chance) if self.roughen else motion

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """First chunks of two takes, 4 and 20 steps, under what was drawn."""
        batch = on_device(self.pool.draw(-1, 2), self.transformer)
        condition = condition_of(batch, batch["latent"][:, :, :1])
        rows = [batch["latent"]]
        for steps in (4, 20):
            levels = sigmas(steps, SHIFT)
            rows.append(sample(self.transformer, condition, levels, generator_of("sample")))
        clips = [decode_normalized(self.vae, row)[:, :, ::4].clamp(-1, 1) for row in rows]
        save_strip(folder / f"sample-{step:07d}.png", [clip[take] for take in range(2) for clip in clips])


def on_device(batch: Batch, network: Denoiser) -> Batch:
    """A batch where a network is."""
    device = next(network.parameters()).device
    return {name: values.to(device) for name, values in batch.items()}


def condition_of(batch: Batch, motion: Tensor) -> Condition:
    """The condition of a drawn batch."""
    length = 1 + 4 * (batch["cond"].shape[2] - 1)
    starts = batch["start"].tolist()
    audio = [windows(sound, start, start + length) for sound, start in zip(batch["sound"], starts, strict=True)]
    return Condition(batch["cond"], batch["clip"], batch["text"], torch.stack(audio), motion)


def dropped(condition: Condition, audio: float, image: float, chance: torch.Generator) -> Condition:
    """Some samples of a batch lose their sound, some their picture."""
    kept_audio, kept_image = (
        (torch.rand(len(condition.cond), generator=chance) >= share).float().to(condition.cond.device)
        for share in (audio, image)
    )
    return condition._replace(
        audio=condition.audio * spread(kept_audio),
        cond=condition.cond * spread(kept_image),
        clip=condition.clip * kept_image[:, None, None],
    )


def softened(motion: Tensor, share: float, chance: torch.Generator) -> Tensor:
    """Blurs a share of a batch's latents [B,16,k,h,w], as far and in such a direction as chance has it."""
    batch, channels, count = motion.shape[:3]
    kept = torch.rand(batch, generator=chance) >= share
    long, short, turn, amount = torch.rand(4, batch, 1, 1, generator=chance)
    place = torch.arange(-REACH, REACH + 1.0)
    x, y = place[None, None, :], place[None, :, None]
    angle = torch.pi * turn
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wide = 0.3 + (SOFTEST - 0.3) * long
    narrow = 0.3 + (wide - 0.3) * short
    kernel = torch.exp(-0.5 * ((along / wide) ** 2 + (across / narrow) ** 2))
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).repeat_interleave(channels * count, 0)[:, None].to(motion)
    padded = F.pad(motion.flatten(1, 2), (REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    blurred = F.conv2d(padded, kernel, groups=len(kernel)).view_as(motion)
    return torch.lerp(motion, blurred, spread(amount[:, 0, 0] * ~kept).to(motion))


def roughened(motion: Tensor, share: float, chance: torch.Generator) -> Tensor:
    """Puts noise, and spots of the batch's next sample, into a share of its latents [B,16,k,h,w], more into some."""
    batch, size = len(motion), motion.shape[3:]
    there = torch.rand(batch, generator=chance) < share
    noise, spots = torch.rand(2, batch, generator=chance) * there
    shown = F.interpolate(torch.rand(batch, 1, SPOTS, SPOTS, generator=chance), size, mode="bilinear")
    shown = GREATEST * spots[:, None, None, None] * ((shown - 0.5) * 4).clamp(0, 1)
    mixed = torch.lerp(motion, motion.roll(1, 0), shown[:, :, None].to(motion))
    return mixed + spread(ROUGHEST * noise).to(motion) * torch.randn(motion.shape, generator=chance).to(motion)


def decode_normalized(vae: VAE, latent: Tensor) -> Tensor:
    """Frames [B,3,T,H,W] of normalised latents, not clamped; all later latent frames in one group."""
    mean, std = latent.new_tensor([vae.config.latent_mean, vae.config.latent_std])[:, None, :, None, None, None]
    return decode(vae, latent * std + mean).float()
