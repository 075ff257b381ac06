"""Stage 2, self-correcting distillation: a student of few steps learns from where its own mistakes take it.

Distribution matching (arXiv 2311.18828, 2405.14867) on rollouts (arXiv 2506.08009): the student goes on from its own
chunks, made as the stream makes them (sampled, decoded, colour-matched, the tail encoded again), for k - 1 chunks
without gradient; in chunk k one random step of its schedule carries the gradient. A frozen teacher with guidance says
where the noised result should be more likely, a trained critic where it is; the student moves along the difference.
All three start from stage 1; attention is bidirectional within the chunk for all; motion latents go in clean and count
in no loss but `motion_weight`'s, which holds the tail of a chunk, the next one's motion latents, near the teacher's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import StreamConfig
from ..models.audio_encoder import windows
from ..models.color import ColorStatistics, match_color
from ..models.vae import VAE
from ..sampling.schedule import sigmas
from .adapt import decode_normalized, on_device
from .chance import generator_of, happens, seed_of
from .flow import Condition, Denoiser, estimate, guided_estimate, noised, normal, random_levels, sample, spread
from .latents import Pool, encode_window
from .strips import save_strip
from .trainer import Batch, Losses, Task

FROM_PORTRAIT = 0.5
"""Share of rollouts that begin as a stream does, from the portrait alone; the others go on from a real clip."""


@dataclass
class Distillation(Task):
    """Trains `student` and `critic`; `teacher` and `vae` stay as they are.

    `chunks` is the greatest number K of chunks in a rollout: 1 is distillation without self-correction. In a round the
    critic is trained `critic_steps` times, then the student once, all behind the same rollouts: the student stands
    still until then. How many forwards a step takes is the same on all ranks, as weights split over ranks need.
    """

    student: Denoiser
    critic: Denoiser
    teacher: Denoiser
    vae: VAE
    pool: Pool
    stream: StreamConfig
    clips: int = 4
    chunks: int = 3
    critic_steps: int = 5
    guidance: float = 1.5
    motion_weight: float = 0.1
    text_guidance: float = 1.0
    learner: ClassVar[str] = "student"
    """What of `networks` changes the student."""
    networks: dict[str, Any] = field(init=False)
    frozen: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.networks = {"student": self.student, "critic": self.critic}
        self.frozen, self.averaged = {"teacher": self.teacher, "vae": self.vae}, (self.learner,)
        self.levels = sigmas(self.stream.steps, self.stream.shift)
        self._rollouts: dict[int, Condition] = {}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("critic",) if (step + 1) % (self.critic_steps + 1) else (self.learner,)

    def draw_of(self, step: int) -> int:
        """See `Task`: the number of the round."""
        return step // (self.critic_steps + 1)

    def batch(self, step: int) -> Batch:
        """See `Pool.draw`; and `number`, the draw's."""
        return {**self.pool.draw(step, self.clips), "number": torch.tensor(step)}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        learns, number = self.trains(step) == (self.learner,), int(batch["number"])
        count = 1 + seed_of("chunks", self.pool.seed, self.draw_of(step)) % self.chunks
        if number not in self._rollouts:
            self._rollouts[number] = self.rollout(batch, count, generator_of("rollout", self.pool.seed, number))
        condition = self._rollouts.pop(number) if learns else self._rollouts[number]
        with torch.set_grad_enabled(learns):
            made = self.one_step(condition, seed_of("step", self.pool.seed, step) % self.stream.steps, noise)
        losses = self._student(made, condition, noise) if learns else self._critic(made, condition, noise)
        return {**losses, "chunks": torch.tensor(float(count))}

    def _student(self, made: Tensor, condition: Condition, noise: torch.Generator) -> Losses:
        motion, tail = condition.motion.shape[2], self.stream.geometry.latent_frames(self.stream.motion_frames)
        with torch.no_grad():
            sigma_B = random_levels(len(made), noise, made.device).clamp(0.02, 0.98)
            noisy = noised(made, normal(made.shape, noise, made.device), sigma_B)
            real = guided_estimate(self.teacher, noisy, sigma_B, condition, self.guidance, self.text_guidance)
            fake = estimate(self.critic, noisy, sigma_B, condition)
            scale = (made - real)[:, :, motion:].abs().mean((1, 2, 3, 4)).clamp_min(1e-3)
            target = made - (fake - real) / spread(scale)
        matching = 0.5 * F.mse_loss(made[:, :, motion:], target[:, :, motion:])
        held = F.mse_loss(made[:, :, -tail:], real[:, :, -tail:])
        return {
            "loss": matching + self.motion_weight * held,
            "matching": matching,
            "held": held,
            "distance": scale.mean(),
        }

    def _critic(self, made: Tensor, condition: Condition, noise: torch.Generator) -> Losses:
        motion = condition.motion.shape[2]
        sigma_B, start = random_levels(len(made), noise, made.device), normal(made.shape, noise, made.device)
        velocity = self.critic(noised(made, start, sigma_B), sigma_B, condition)
        error = F.mse_loss(velocity[:, :, motion:], (start - made)[:, :, motion:])
        return {"loss": error, "critic": error}

    @torch.no_grad()
    def rollout(self, batch: Batch, count: int, noise: torch.Generator) -> Condition:
        """The condition of chunk `count`, after the chunks before it of the student's own."""
        from_portrait = happens(FROM_PORTRAIT, noise)
        condition = self.beginning(batch, count)
        if not from_portrait:
            condition = condition._replace(motion=batch["latent"][:, :, :2])
        for chunk in range(1, count):
            motion, _ = self.go_on(condition, batch, noise)
            condition = condition._replace(audio=self.sound(batch, chunk, count), motion=motion)
        return condition

    def beginning(self, batch: Batch, count: int) -> Condition:
        """The condition of the first of `count` chunks, from the portrait alone."""
        portrait = batch["cond"][:, -self.stream.geometry.latent_channels :, :1]
        return Condition(batch["cond"], batch["clip"], batch["text"], self.sound(batch, 0, count), portrait)

    def go_on(self, condition: Condition, batch: Batch, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """A chunk as the stream makes it: what it hands on, [B,16,k,h,w], and its frames as they were decoded,
        [B,3,T,H,W] in -1..1."""
        frames = decode_normalized(self.vae, self._sample(condition, self.stream.steps, noise)).clamp(-1, 1)
        colors = ColorStatistics.of(batch["reference"])
        tail = match_color(frames[:, :, -self.stream.motion_frames :], colors, self.stream.color_correction)
        return self._handed_on(tail), frames

    def _handed_on(self, tail: Tensor) -> Tensor:
        """What a chunk's last frames are to the next one, as `streaming.session.encode_revised` has it."""
        latent = plain = encode_window(self.vae, tail)
        for _ in range(self.stream.revisions):
            decoded = decode_normalized(self.vae, latent).clamp(-1, 1)
            latent = latent + plain - encode_window(self.vae, decoded)
        return latent

    def sound(self, batch: Batch, chunk: int, count: int) -> Tensor:
        """Audio windows of a chunk; a rollout that the take is too short for begins earlier."""
        frames, step = self.stream.frame_num, self.stream.new_frames
        latest = batch["sound"].shape[1] - frames - (count - 1) * step
        starts = (batch["start"].clamp_max(latest) + chunk * step).tolist()
        return torch.stack([windows(s, at, at + frames) for s, at in zip(batch["sound"], starts, strict=True)])

    def one_step(self, condition: Condition, step: int, noise: torch.Generator) -> Tensor:
        """The student's clean latent at a step of its schedule, the steps before without gradient."""
        with torch.no_grad():
            latent = self._sample(condition, step, noise)
        sigma_B = torch.full((len(latent),), self.levels[step], device=latent.device)
        made = estimate(self.student, latent, sigma_B, condition)
        return torch.cat([condition.motion, made[:, :, condition.motion.shape[2] :]], dim=2)

    def _sample(self, condition: Condition, steps: int, noise: torch.Generator) -> Tensor:
        """The student's latent after the first `steps` steps of the stream's sampler; after all, the clean one."""
        return sample(self.student, condition, self.levels[: steps + 1], noise)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """The last chunks of two rollouts."""
        chance = generator_of("sample", step)
        condition = self.rollout(on_device(self.pool.draw(-1, 2), self.student), self.chunks, chance)
        frames = decode_normalized(self.vae, self._sample(condition, self.stream.steps, chance)).clamp(-1, 1)
        save_strip(folder / f"sample-{step:07d}.png", list(frames[:, :, ::4]))
