"""What computes a chunk: three verbs, the same for one device, a fleet of workers, and ComfyUI."""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from ..config import Guidance
from ..errors import InputError
from ..hardware.compiling import compile_vae, compiled_block
from ..hardware.fused import passes_of
from ..models.attention import AttentionFunction, attend
from ..models.codec import Codec, decode_streamed, encode_drawn
from ..models.transformer import AudioContext, Context, Scene, TimeContext, Transformer
from ..models.vae import VAE
from ..sampling.chunk import advance_of, read_noise, sample
from ..sampling.guidance import guided
from ..sampling.schedule import Schedule
from .avatar import Avatar

OnStep = Callable[[int], None]
"""Called with the number of denoising steps done in this chunk; may raise to stop the work."""


class Engine(Protocol):
    """Runs the model's parts. Tensors come and go on any device; the engine moves them."""

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """Audio windows [P,frames,5,blocks,channels], clean latents [C,k,h,w], noise [steps,C,F,h,w] -> latent.

        The clean latents may differ from step to step: [steps,C,k,h,w]. The first of the noise is what the chunk
        starts from; an engine that follows the flow reads it alone.
        """
        ...

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Latent [C,F,h,w] -> frames [3,n,H,W] in -1..1, as the VAE yields them."""
        ...

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames [3,T,H,W] in -1..1 -> latent [C,t,h,w]: its mean, or the draw that `noise` of its shape makes."""
        ...


def prompts(avatar: Avatar, guidance: Guidance | None, negative: Tensor | None) -> dict[bool, Tensor | None]:
    """True: the avatar's text tokens; False: those of the negative prompt, where guidance compares with it."""
    if guidance is None or guidance.text == 1:
        return {True: avatar.text}
    if avatar.text is None:
        raise InputError(f"guidance by text {guidance.text}; this model reads no prompt: set it to 1")
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


def embed_tokens(
    transformer: Transformer, text: Tensor | None, clip: Tensor | None, to_device: Callable[[Tensor], Tensor]
) -> Context:
    """What text [L,text_dim] and image tokens [1,S,clip_dim] contribute; a model without prompts reads neither."""
    return transformer.embed_context(
        None if text is None else to_device(text)[None], None if clip is None else to_device(clip)
    )


class LocalEngine:
    """One device, or one of several ranks that all run the same session on split models.

    What an avatar and the schedule contribute to every step is kept until another avatar, prompt or schedule comes.
    `compiled` has torch.compile make graphs of a block and, on a GPU, of the VAE, once per size. `guidance` is as in
    `StreamConfig`; guidance by text needs `negative`, the tokens [L,text_dim] of a negative prompt.
    So is `bridge`.
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
        bridge: bool = False,
    ) -> None:
        self.transformer, self.vae, self.device, self.shift = transformer, vae, torch.device(device), shift
        self.attention, self.compiled = attention, compiled
        self.guidance, self.negative, self.bridge = guidance, negative, bridge
        if compiled and self.device.type != "cpu" and isinstance(vae, VAE):
            compile_vae(vae)
        self._contexts: dict[bool, tuple[Tensor | None, Tensor | None, Context]] = {}
        self._scene: tuple[Avatar, Scene] | None = None
        self._times: dict[float, TimeContext] = {}

    @torch.inference_mode()
    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        schedule = Schedule.of(len(noise), self.shift, self.bridge)
        scene, times = self._embed_scene(avatar), self._embed_times(schedule)
        contexts, sounds = self._embed_texts(avatar), self._embed_sounds(self._here(audio))

        def estimate(latent: Tensor, sigma: float, text: bool, sound: bool) -> Tensor:
            velocity = self._evaluate(latent[None], times[sigma], scene, contexts[text], sounds[sound], self.attention)
            return latent - sigma * velocity[0]

        advance = advance_of(self.guidance is not None, self.bridge)
        read, predict = self._here(read_noise(noise, advance)), guided(estimate, self.guidance)
        return sample(predict, self._here(motion), read, schedule.sigmas, on_step, advance)

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        for group in decode_streamed(self.vae, self._here(latent)[None]):
            yield group[0].float()

    @torch.inference_mode()
    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Engine.encode`."""
        drawn = None if noise is None else self._here(noise)[None]
        return encode_drawn(self.vae, self._here(frames)[None], drawn)[0].float()

    @cached_property
    def _evaluate(self) -> Callable[..., Tensor]:
        if self.compiled:
            return partial(self.transformer.evaluate, run_block=compiled_block())
        return partial(self.transformer.evaluate, passes=passes_of(self.transformer, self.device))

    def _here(self, x: Tensor) -> Tensor:
        """On the engine's device. The host does not wait for the copy to it."""
        return x.to(self.device, non_blocking=self.device.type != "cpu")

    def _embed_texts(self, avatar: Avatar) -> dict[bool, Context]:
        """The avatar's prompt, and without it the negative one where guidance asks for it."""
        texts = prompts(avatar, self.guidance, self.negative)
        return {prompted: self._embed(prompted, text, avatar.clip) for prompted, text in texts.items()}

    def _embed(self, prompted: bool, text: Tensor | None, clip: Tensor | None) -> Context:
        kept = self._contexts.get(prompted)
        if kept is None or kept[0] is not text or kept[1] is not clip:
            context = embed_tokens(self.transformer, text, clip, self._here)
            self._contexts[prompted] = kept = (text, clip, context)
        return kept[2]

    def _embed_sounds(self, audio: Tensor) -> dict[bool, AudioContext]:
        return {voiced: self.transformer.embed_audio(sound) for voiced, sound in voices(audio, self.guidance).items()}

    def _embed_scene(self, avatar: Avatar) -> Scene:
        if self._scene is None or self._scene[0].cond is not avatar.cond or self._scene[0].masks is not avatar.masks:
            masks = None if avatar.masks is None else self._here(avatar.masks)
            self._scene = (avatar, self.transformer.embed_scene(self._here(avatar.cond)[None], masks))
        return self._scene[1]

    def _embed_times(self, schedule: Schedule) -> dict[float, TimeContext]:
        """By noise level."""
        if set(schedule.timesteps) != set(self._times):
            steps = {step: torch.full((1,), step, device=self.device) for step in schedule.timesteps}
            self._times = {step: self.transformer.embed_timestep(step_B) for step, step_B in steps.items()}
        return {sigma: self._times[step] for sigma, step in zip(schedule.sigmas, schedule.timesteps, strict=False)}
