"""What computes a chunk: three verbs, the same for one device, a fleet of workers, and ComfyUI."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..models.attention import AttentionFunction, attend
from ..models.transformer import Context, Scene, TimeContext, Transformer
from ..sampling.chunk import sample
from ..sampling.schedule import sigmas
from .avatar import Avatar

OnStep = Callable[[int], None]
"""Called with the number of denoising steps done in this chunk; may raise to stop the work."""


class Engine(Protocol):
    """Runs the model's parts. Tensors come and go on any device; the engine moves them."""

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """Audio windows [P,frames,5,blocks,channels], clean latents [16,k,h,w], noise [steps,16,F,h,w] -> latent.

        The clean latents may differ from step to step: [steps,16,k,h,w].
        """
        ...

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Latent [16,F,h,w] -> frames [3,n,H,W] in -1..1, as the VAE yields them."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [3,T,H,W] in -1..1 -> latent [16,t,h,w]."""
        ...


class Codec(Protocol):
    """The VAE's two directions: the built VAE, or one that is split over ranks."""

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """See `VAE.encode`."""
        ...

    def decode_groups(self, latent_BCThw: Tensor) -> Iterator[Tensor]:
        """See `VAE.decode_groups`."""
        ...


class LocalEngine:
    """One device, or one of several ranks that all run the same session on split models.

    What an avatar and the schedule contribute to every step is kept until another avatar, prompt or schedule comes.
    `compiled` has torch.compile make one graph of the whole step, once per size.
    """

    def __init__(
        self,
        transformer: Transformer,
        vae: Codec,
        device: torch.device | str = "cpu",
        shift: float = 5.0,
        attention: AttentionFunction = attend,
        compiled: bool = False,
    ) -> None:
        self.transformer, self.vae, self.device, self.shift = transformer, vae, torch.device(device), shift
        self.attention, self.compiled = attention, compiled
        self._context: tuple[Tensor, Tensor, Context] | None = None
        self._scene: tuple[Avatar, Scene] | None = None
        self._times: dict[float, TimeContext] = {}

    @torch.inference_mode()
    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        levels = sigmas(len(noise), self.shift)
        context, scene, times = self._embed(avatar), self._embed_scene(avatar), self._embed_times(levels[:-1])
        sound = self.transformer.embed_audio(audio.to(self.device))

        def predict(latent: Tensor, sigma: float) -> Tensor:
            found = self._evaluate(latent[None], times[sigma], scene, context, sound, self.attention)
            return latent - sigma * found[0]

        return sample(predict, motion.to(self.device), noise.to(self.device), levels, on_step)

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        for group in self.vae.decode_groups(latent.to(self.device)[None]):
            yield group[0].float()

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """See `Engine.encode`."""
        return self.vae.encode(frames.to(self.device)[None])[0].float()

    @cached_property
    def _evaluate(self) -> Callable[..., Tensor]:
        evaluate = self.transformer.evaluate
        return torch.compile(evaluate, fullgraph=True, dynamic=False) if self.compiled else evaluate

    def _embed(self, avatar: Avatar) -> Context:
        if self._context is None or self._context[0] is not avatar.text or self._context[1] is not avatar.clip:
            context = self.transformer.embed_context(avatar.text.to(self.device)[None], avatar.clip.to(self.device))
            self._context = (avatar.text, avatar.clip, context)
        return self._context[2]

    def _embed_scene(self, avatar: Avatar) -> Scene:
        if self._scene is None or self._scene[0].cond is not avatar.cond or self._scene[0].masks is not avatar.masks:
            masks = None if avatar.masks is None else avatar.masks.to(self.device)
            self._scene = (avatar, self.transformer.embed_scene(avatar.cond.to(self.device)[None], masks))
        return self._scene[1]

    def _embed_times(self, levels: Sequence[float]) -> dict[float, TimeContext]:
        if set(levels) != set(self._times):
            timesteps = {sigma: torch.full((1,), 1000 * sigma, device=self.device) for sigma in levels}
            self._times = {sigma: self.transformer.embed_timestep(step) for sigma, step in timesteps.items()}
        return self._times
