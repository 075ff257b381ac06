"""The transformer in training: batches, noise levels, guidance.

A batch's samples have audio of their own: their audio tokens lie behind each other along the frames, as the blocks'
attention within latent frames reads them. B samples, F latent frames, h w latent points.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..models.attention import attend
from ..models.blocks import BaseBlock, Step
from ..models.patchify import unpatchify
from ..models.transformer import Head, Transformer

SHIFT = 5.0


class Condition(NamedTuple):
    """What a denoising depends on: `cond` [B,20,F,h,w], `clip` [B,S,clip_dim], `text` [B,text_len,text_dim],
    `audio` [B,1+4(F-1),5,blocks,channels], `motion` [B,16,k,h,w] (clean latents in front)."""

    cond: Tensor
    clip: Tensor
    text: Tensor
    audio: Tensor
    motion: Tensor

    def without(self, audio: bool = False, image: bool = False, text: bool = False) -> "Condition":
        """Zeros in place of the sound, the picture or the prompt, as guidance compares with."""
        changed = self._replace(audio=torch.zeros_like(self.audio)) if audio else self
        changed = changed._replace(text=torch.zeros_like(self.text)) if text else changed
        zeros = {"cond": torch.zeros_like(self.cond), "clip": torch.zeros_like(self.clip)}
        return changed._replace(**zeros) if image else changed


class Denoiser(Transformer):
    """The transformer as it is trained: its whole work is one call, and a block's work one call of the block, which is
    what weights split over processes need.

    With `checkpointing` blocks are computed again on the way back, in place of keeping what they computed.
    """

    checkpointing = False

    @classmethod
    def of(cls, transformer: Transformer) -> "Denoiser":
        """The same weights, in the same dtypes; those in FP8 with their scales."""
        denoiser = cls._shaped_as(transformer)
        denoiser.load_state_dict(transformer.state_dict(), assign=True)
        return denoiser

    def twin(self) -> "Denoiser":
        """Another one of the very same frozen weights, of which there is no copy: what changes its layers is its own.

        Both are moved to a device one after the other; there, too, they share them.
        """
        twin = self._shaped_as(self).requires_grad_(False).train(self.training)
        twin.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        twin.checkpointing = self.checkpointing
        return twin

    @classmethod
    def _shaped_as(cls, transformer: Transformer) -> "Denoiser":
        with torch.device("meta"):
            denoiser = cls(transformer.config, dtype=transformer.dtype)
        for name, layer in denoiser.named_modules():
            if (scale := getattr(transformer.get_submodule(name), "scale_weight", None)) is not None:
                layer.scale_weight = torch.empty_like(scale, device="meta")
        return denoiser

    def forward(self, latent: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """The velocity [B,16,F,h,w] in float32 at noise levels `sigma_B` in 0..1; the motion latents go in clean."""
        latent = torch.cat([condition.motion, latent[:, :, condition.motion.shape[2] :]], dim=2)
        time_BC, time_B6C = self.embed_time(1000 * sigma_B)
        scene, attention = self.embed_scene(condition.cond), attend_plainly if latent.device.type == "cpu" else attend
        step = Step(scene.rotation, scene.tokens, scene.speaker_masks, attention)
        shared = (
            step,
            time_B6C,
            *self.embed_tokens(condition.text, condition.clip),
            self.embed_sounds(condition.audio),
        )
        x_BLC = self._begin(latent, scene)
        for block in self._blocks:
            x_BLC = self._through(block, x_BLC, shared)
        head = cast(Head, self.head)
        return unpatchify(scene.tokens.join(head(x_BLC, head.modulations(time_BC))), scene.grid, self.patch)

    def _through(self, block: BaseBlock, x_BLC: Tensor, shared: tuple[Any, ...]) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block.evaluate, x_BLC, *shared, use_reentrant=False))
        return block.evaluate(x_BLC, *shared)

    def embed_sounds(self, windows: Tensor) -> Tensor:
        """Audio tokens of a batch: [B,1+4(F-1),5,blocks,channels] -> [B*F,T,C]."""
        tokens = self.audio_proj(windows.to(self.dtype))
        return rearrange(tokens, "f (b t) c -> (b f) t c", b=windows.shape[0])


def attend_plainly(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
    """Attention step by step: on CPUs the fused kernel takes ten times longer backwards."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLND, k_BSND, v_BSND))
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(-1)
    return (weights @ v).transpose(1, 2)


def estimate(denoiser: Denoiser, latent: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
    """The clean latent that the denoiser sees in a noisy one."""
    return latent - spread(sigma_B) * denoiser(latent, sigma_B, condition)


def guided_estimate(
    denoiser: Denoiser, latent: Tensor, sigma_B: Tensor, condition: Condition, scale: float, text: float = 1.0
) -> Tensor:
    """`estimate` with guidance by the sound, `scale`, and by the prompt; 1 is none.

    With both: without either, `scale` times towards the sound, from there `text` times towards the prompt.
    """
    if text != 1:
        wordless = guided_estimate(denoiser, latent, sigma_B, condition.without(text=True), scale)
        unread = wordless if scale == 1 else estimate(denoiser, latent, sigma_B, condition.without(text=True))
        return wordless + text * (estimate(denoiser, latent, sigma_B, condition) - unread)
    heard = estimate(denoiser, latent, sigma_B, condition)
    if scale == 1:
        return heard
    return torch.lerp(estimate(denoiser, latent, sigma_B, condition.without(audio=True)), heard, scale)


def sample(denoiser: Denoiser, condition: Condition, levels: Sequence[float], chance: torch.Generator) -> Tensor:
    """A batch of latents [B,16,F,h,w] by the stream's own sampler: from level to level, estimate, then noise anew."""
    batch, channels, motion = condition.motion.shape[:3]
    shape = (batch, channels, *condition.cond.shape[2:])
    device = condition.motion.device
    latent = normal(shape, chance, device)
    for sigma, following in pairwise(levels):
        latent = estimate(denoiser, latent, torch.full((batch,), sigma, device=device), condition)
        latent = noised(latent, normal(shape, chance, device), torch.full((batch,), following, device=device))
    return torch.cat([condition.motion, latent[:, :, motion:]], dim=2)


def spread(sigma_B: Tensor) -> Tensor:
    """[B] -> [B,1,1,1,1]."""
    return sigma_B[:, None, None, None, None]


def noised(clean: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """(1 - sigma) * clean + sigma * noise."""
    return torch.lerp(clean, noise, spread(sigma_B))


def normal(shape: Sequence[int], chance: torch.Generator, device: torch.device) -> Tensor:
    """Noise of a shape on a device, drawn on the CPU: the same on every machine."""
    return torch.randn(tuple(shape), generator=chance).to(device)


def random_levels(count: int, chance: torch.Generator, device: torch.device, shift: float = SHIFT) -> Tensor:
    """Noise levels in 0..1, drawn evenly on the CPU, then shifted as the sampler's are: [count] on the device."""
    even = torch.rand(count, generator=chance).to(device)
    return shift * even / (1 + (shift - 1) * even)
