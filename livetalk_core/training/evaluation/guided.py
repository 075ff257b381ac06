"""The teacher's way to sample: many steps of an ODE solver, with guidance."""

import itertools

import torch
from torch import Tensor

from ...models.transformer import AudioContext, Context, Transformer
from ...sampling.chunk import each_step
from ...sampling.schedule import sigmas
from ...streaming.avatar import Avatar
from ...streaming.engine import Codec, LocalEngine, OnStep


class GuidedEngine(LocalEngine):
    """Guidance by the sound: out = without + guidance * (with - without), where `without` hears zeros.

    Steps are Euler's along the flow, x += (next sigma - sigma) * velocity, from the first noise; the other noises
    that the session draws are not used.
    """

    def __init__(
        self, transformer: Transformer, vae: Codec, device: torch.device | str, shift: float, guidance: float
    ) -> None:
        super().__init__(transformer, vae, device, shift)
        self.guidance = guidance

    @torch.inference_mode()
    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        ways = [self._inputs(avatar, audio)]
        if self.guidance != 1:
            ways.append(self._inputs(avatar, torch.zeros_like(audio)))
        cond, motions = avatar.cond.to(self.device)[None], each_step(motion.to(self.device), len(noise))
        clean, latent = motions.shape[2], noise[0].to(self.device).clone()
        for step, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas(len(noise), self.shift))):
            latent[:, :clean] = motions[step]
            time = torch.full((1,), 1000 * sigma, device=self.device)
            outs = [self.transformer(latent[None], time, cond, *way)[0] for way in ways]
            velocity = torch.lerp(outs[-1], outs[0], self.guidance)
            latent = latent + (next_sigma - sigma) * velocity
            on_step(step + 1)
        latent[:, :clean] = motions[-1]
        return latent

    def _inputs(self, avatar: Avatar, audio: Tensor) -> tuple[Context, AudioContext]:
        context = self.transformer.embed_context(avatar.text.to(self.device)[None], avatar.clip.to(self.device))
        return context, self.transformer.embed_audio(audio.to(self.device))
