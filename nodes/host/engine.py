"""The core's engine verbs on a MODEL and a VAE of ComfyUI's."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sd
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ...livetalk_core.config import Guidance
from ...livetalk_core.hardware.kernels import ANY_MODEL, Call, Shape, fault_of
from ...livetalk_core.models.codec import StreamingCodec, decode_streamed, encode_drawn
from ...livetalk_core.models.transformer import Context, Transformer
from ...livetalk_core.sampling.chunk import advance_of, read_noise, sample
from ...livetalk_core.sampling.guidance import guided
from ...livetalk_core.sampling.schedule import Schedule
from ...livetalk_core.shapes import LatentShape
from ...livetalk_core.streaming.avatar import Avatar
from ...livetalk_core.streaming.engine import OnStep, embed_tokens, prompts, voices
from .models import LiveTalkModel, Patcher, host_attention
from .vae import vae_patcher

logger = logging.getLogger(__name__)

GROUP = 4
"""Frames, of the video or the latent, for whose work a VAE that streams needs room."""


class HostEngine:
    """The core's engine verbs, run on a MODEL and a VAE of ComfyUI's. Give what the verbs called will need.

    `on_estimate` is shown the clean latent [C,F,h,w] that each denoising step arrives at. `guidance`, `negative` and
    `bridge` are as in `LocalEngine`.
    """

    def __init__(
        self,
        model: Patcher | None = None,
        vae: comfy.sd.VAE | None = None,
        on_estimate: Callable[[Tensor], None] = lambda _: None,
        guidance: Guidance | None = None,
        negative: Tensor | None = None,
        bridge: bool = False,
    ) -> None:
        self.model, self.vae, self.on_estimate = model, vae, on_estimate
        self.guidance, self.negative, self.bridge = guidance, negative, bridge
        self._contexts: dict[bool, tuple[Tensor | None, Tensor | None, Context]] = {}
        self._judged: tuple[Shape, str] | None = None

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See the core's `Engine.denoise`."""
        assert self.model is not None
        with _running(self.model, noise.shape[1:]) as (model, device):
            timesteps, levels = Schedule.of(len(noise), model.model_sampling.shift, self.bridge)
            timestep_at = dict(zip(levels, timesteps, strict=False))
            transformer = model.diffusion_model
            options = _transformer_options(self.model, torch.tensor(levels, device=device))
            options |= self._exact_attention(options, _calls(transformer, noise.shape[2:], device))
            texts = prompts(avatar, self.guidance, self.negative)
            contexts = {
                prompted: self._embed(transformer, prompted, text, avatar.clip, device)
                for prompted, text in texts.items()
            }
            heard = voices(audio.to(device), self.guidance)
            sounds = {voiced: transformer.embed_audio(sound) for voiced, sound in heard.items()}
            conditions = {
                "c_concat": avatar.cond.to(device)[None],
                "masks": None if avatar.masks is None else avatar.masks.to(device),
            }

            def estimate(latent: Tensor, sigma: float, text: bool, sound: bool) -> Tensor:
                level = torch.full((1,), sigma, device=device)
                step_options = options | {"sigmas": level, "cond_or_uncond": [int(not (text and sound))]}
                timestep = torch.full((1,), timestep_at[sigma], device=device)
                inputs = conditions | {"context": contexts[text], "audio": sounds[sound], "timestep": timestep}
                return model.apply_model(latent[None], level, transformer_options=step_options, **inputs)[0]

            best = guided(estimate, self.guidance)

            def predict(latent: Tensor, sigma: float) -> Tensor:
                clean = best(latent, sigma)
                self.on_estimate(clean)
                return clean

            advance = advance_of(self.guidance is not None, self.bridge)
            read = read_noise(noise, advance).to(device)
            return sample(predict, motion.to(device), read, levels, on_step, advance)

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See the core's `Engine.decode`. Stops between groups of frames when the user cancels."""
        assert self.vae is not None
        patcher = vae_patcher(self.vae)
        channels, frames, *size = latent.shape
        at_once = GROUP if isinstance(patcher.model, StreamingCodec) else frames
        needed = self.vae.memory_used_decode((1, channels, at_once, *size), self.vae.vae_dtype)
        memory.load_models_gpu([patcher], memory_required=needed)
        for group in decode_streamed(patcher.model, latent.to(patcher.load_device)[None]):
            memory.throw_exception_if_processing_interrupted()
            yield group[0].float()

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """See the core's `Engine.encode`."""
        assert self.vae is not None
        patcher = vae_patcher(self.vae)
        at_once = GROUP if isinstance(patcher.model, StreamingCodec) else frames.shape[1]
        needed = self.vae.memory_used_encode((1, 3, at_once, *frames.shape[-2:]), self.vae.vae_dtype)
        memory.load_models_gpu([patcher], memory_required=needed)
        drawn = None if noise is None else noise.to(patcher.load_device)[None]
        return encode_drawn(patcher.model, frames.to(patcher.load_device)[None], drawn)[0].float()

    def _exact_attention(self, options: dict[str, Any], shape: Shape) -> dict[str, Any]:
        """What options are to be changed: PyTorch's attention where the chosen one gives other numbers than softmax.

        ComfyUI's kernels and overrides (SageAttention, FlashAttention) are looked at once, as `generate` looks at its.
        """
        if self._judged is None or self._judged[0] != shape:
            self._judged = (shape, fault_of(host_attention(options), shape))
            if self._judged[1]:
                logger.warning("ComfyUI's attention gives other numbers here, PyTorch's is used: %s", self._judged[1])
        return {"optimized_attention_override": _by_pytorch} if self._judged[1] else {}

    def _embed(
        self, transformer: Transformer, prompted: bool, text: Tensor | None, clip: Tensor | None, device: torch.device
    ) -> Context:
        kept = self._contexts.get(prompted)
        if kept is None or kept[0] is not text or kept[1] is not clip:
            context = embed_tokens(transformer, text, clip, lambda tokens: tokens.to(device))
            self._contexts[prompted] = kept = (text, clip, context)
        return kept[2]


def _calls(transformer: Transformer, size: tuple[int, ...], device: torch.device) -> Shape:
    """How a step calls attention at a latent's size (frames, rows, columns); on a CPU only what any model does."""
    config = transformer.config
    calls = list(ANY_MODEL)
    if device.type == "cuda":
        frames, rows, columns = LatentShape(*size).grid(config.geometry)
        calls += [Call(1, frames * rows * columns, keys) for keys in (frames * rows * columns, config.text_len)]
        calls.append(Call(frames, rows * columns, config.context_tokens))
    return Shape(device, transformer.dtype, config.num_heads, config.head_dim, tuple(calls))


def _by_pytorch(_: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    """Takes the place of whatever attention was chosen."""
    return attention_pytorch(*arguments, **options)


@contextmanager
def _running(patcher: Patcher, latent_shape: tuple[int, ...]) -> Iterator[tuple[LiveTalkModel, torch.device]]:
    """The model on its device, with room for a latent [C,F,h,w], as ComfyUI's samplers set it up."""
    models = [patcher, *patcher.get_nested_additional_models()]
    memory.load_models_gpu(models, memory_required=patcher.memory_required([1, *latent_shape]))
    try:
        patcher.pre_run()
        yield patcher.model, patcher.load_device
    finally:
        patcher.cleanup()


def _transformer_options(patcher: Patcher, levels: Tensor) -> dict[str, Any]:
    """Options that wrappers, patches and attention overrides read, as ComfyUI's samplers fill them."""
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)["transformer_options"]
    merge = comfy.patcher_extension.merge_nested_dicts
    merge(options.setdefault("wrappers", {}), patcher.wrappers, copy_dict1=False)
    merge(options.setdefault("callbacks", {}), patcher.callbacks, copy_dict1=False)
    return options | {"sample_sigmas": levels}
