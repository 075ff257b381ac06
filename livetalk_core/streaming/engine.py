"""What computes a chunk: three verbs, the same for one device, a fleet of workers, and ComfyUI."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from ..config import Guidance
from ..errors import InputError
from ..hardware.compiling import compile_vae, compiled_block
from ..models.attention import AttentionFunction, attend
from ..models.codec import Codec, decode_streamed
from ..models.transformer import AudioContext, Context, Scene, TimeContext, Transformer
from ..models.vae import VAE
from ..sampling.chunk import sample
from ..sampling.guidance import guided
from ..sampling.schedule import sigmas
from .avatar import Avatar

OnStep = Callable[[int], None]
"""Called with the number of denoising steps done in this chunk; may raise to stop the work."""


class Engine(Protocol):
    """Runs the model's parts. Tensors come and go on any device; the engine moves them."""

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """Audio windows [P,frames,5,blocks,channels], clean latents [16,k,h,w], noise [steps,16,F,h,w] -> latent.

        The clean latents may differ from step to step: [steps,16,k,h,w]. An engine with guidance reads the first noise
        alone.
        """
        ...

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Latent [16,F,h,w] -> frames [3,n,H,W] in -1..1, as the VAE yields them."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [3,T,H,W] in -1..1 -> latent [16,t,h,w]."""
        ...


def prompts(avatar: Avatar, guidance: Guidance | None, negative: Tensor | None) -> dict[bool, Tensor]:
    """True: the avatar's text tokens; False: those of the negative prompt, where guidance compares with it."""
    if guidance is None or guidance.text == 1:
        return {True: avatar.text}
    if negative is None:
        raise InputError(
            f"guidance by text {guidance.text} without a negative prompt; it compares with one: give it, or set text "
            "guidance to 1"
        )
    return {True: avatar.text, False: negative}


def voices(audio: Tensor, guidance: Guidance | None) -> dict[bool, Tensor]:
    """True: the chunk's audio windows; False: zeros, where guidance compares with silence."""
    if guidance is None or guidance.audio == 1:
        return {True: audio}
    return {True: audio, False: torch.zeros_like(audio)}


class LocalEngine:
    """One device, or one of several ranks that all run the same session on split models.

    What an avatar and the schedule contribute to every step is kept until another avatar, prompt or schedule comes.
    `compiled` has torch.compile make graphs of a block and, on a GPU, of the VAE, once per size. `guidance` is as in
    `StreamConfig`; guidance by text needs `negative`, the tokens [L,text_dim] of a negative prompt.
    """

    def __init__(
        self,
        transformer: Transformer,
        vae: Codec,
        device: torch.device | str = "cpu",
        shift: float = 5.0,
        attention: AttentionFunction = attend,
        compiled: bool = False,
        guidance: Guidance | None = None,
        negative: Tensor | None = None,
    ) -> None:
        self.transformer, self.vae, self.device, self.shift = transformer, vae, torch.device(device), shift
        self.attention, self.compiled = attention, compiled
        self.guidance, self.negative = guidance, negative
        if compiled and self.device.type != "cpu" and isinstance(vae, VAE):
            compile_vae(vae)
        self._contexts: dict[bool, tuple[Tensor, Tensor, Context]] = {}
        self._scene: tuple[Avatar, Scene] | None = None
        self._times: dict[float, TimeContext] = {}

    @torch.inference_mode()
    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        levels = sigmas(len(noise), self.shift)
        scene, times = self._embed_scene(avatar), self._embed_times(levels[:-1])
        contexts, sounds = self._embed_texts(avatar), self._embed_sounds(self._here(audio))

        def estimate(latent: Tensor, sigma: float, text: bool, sound: bool) -> Tensor:
            found = self._evaluate(latent[None], times[sigma], scene, contexts[text], sounds[sound], self.attention)
            return latent - sigma * found[0]

        fresh = self.guidance is None
        start = noise if fresh else noise[:1]
        predict = guided(estimate, self.guidance)
        return sample(predict, self._here(motion), self._here(start), levels, on_step, fresh)

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        for group in decode_streamed(self.vae, self._here(latent)[None]):
            yield group[0].float()

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """See `Engine.encode`."""
        return self.vae.encode(self._here(frames)[None])[0].float()

    @cached_property
    def _evaluate(self) -> Callable[..., Tensor]:
        evaluate = self.transformer.evaluate
        return partial(evaluate, run_block=compiled_block()) if self.compiled else evaluate

    def _here(self, x: Tensor) -> Tensor:
        """On the engine's device. The host does not wait for the copy to it."""
        return x.to(self.device, non_blocking=self.device.type != "cpu")

    def _embed_texts(self, avatar: Avatar) -> dict[bool, Context]:
        """The avatar's prompt, and without it the negative one where guidance asks for it."""
        texts = prompts(avatar, self.guidance, self.negative)
        return {given: self._embed(given, text, avatar.clip) for given, text in texts.items()}

    def _embed(self, given: bool, text: Tensor, clip: Tensor) -> Context:
        kept = self._contexts.get(given)
        if kept is None or kept[0] is not text or kept[1] is not clip:
            context = self.transformer.embed_context(self._here(text)[None], self._here(clip))
            self._contexts[given] = kept = (text, clip, context)
        return kept[2]

    def _embed_sounds(self, audio: Tensor) -> dict[bool, AudioContext]:
        return {given: self.transformer.embed_audio(sound) for given, sound in voices(audio, self.guidance).items()}

    def _embed_scene(self, avatar: Avatar) -> Scene:
        if self._scene is None or self._scene[0].cond is not avatar.cond or self._scene[0].masks is not avatar.masks:
            masks = None if avatar.masks is None else self._here(avatar.masks)
            self._scene = (avatar, self.transformer.embed_scene(self._here(avatar.cond)[None], masks))
        return self._scene[1]

    def _embed_times(self, levels: Sequence[float]) -> dict[float, TimeContext]:
        if set(levels) != set(self._times):
            timesteps = {sigma: torch.full((1,), 1000 * sigma, device=self.device) for sigma in levels}
            self._times = {sigma: self.transformer.embed_timestep(step) for sigma, step in timesteps.items()}
        return self._times
