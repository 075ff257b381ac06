"""Our transformer as a ComfyUI MODEL: built from ComfyUI's layers, moved between devices by its patcher."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as memory
import comfy.model_patcher
import comfy.model_sampling as schedules
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...livetalk_core.checkpoints.convert import FP8_MARKER, scaled_layer
from ...livetalk_core.checkpoints.keys import transformer_name
from ...livetalk_core.config import TransformerConfig
from ...livetalk_core.errors import CheckpointError, InputError
from ...livetalk_core.hardware.fused import passes_of
from ...livetalk_core.models.attention import AttentionFunction
from ...livetalk_core.models.fp8 import FP8, is_quantized
from ...livetalk_core.models.image_encoder import preprocess
from ...livetalk_core.models.transformer import AudioContext, Context, Transformer
from ...livetalk_core.shapes import LTX, WAN, Geometry

KEY = "livetalk"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
WIDTH_OF_UNIT_MEMORY = 2222
"""Width at which ComfyUI's memory estimate for Wan's tokens, of 2x2 latent points, has factor 1."""

Weights = dict[str, Tensor]
Patcher = Any
"""comfy.model_patcher.ModelPatcher, static or dynamic."""


class ModelSettings(comfy.supported_models_base.BASE):
    """What ComfyUI asks a model about: latent format, noise schedule, dtypes, memory."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    supported_inference_dtypes = DTYPES

    def __init__(self, config: TransformerConfig, shift: float) -> None:
        self.latent_format = latent_format(config.geometry)
        super().__init__({"disable_unet_model_creation": True})
        self.sampling_settings = {"shift": shift}
        points_per_token = config.geometry.patch**2
        self.memory_usage_factor = config.dim / WIDTH_OF_UNIT_MEMORY * WAN.patch**2 / points_per_token


def latent_format(geometry: Geometry) -> Any:
    """ComfyUI's format of these latents, a class."""
    return comfy.latent_formats.LTXV if geometry.latent_channels == LTX.latent_channels else comfy.latent_formats.Wan21


class LiveTalkModel(comfy.model_base.BaseModel):
    """Our transformer as a ComfyUI MODEL; its `diffusion_model` carries the published keys, so stock LoRAs fit."""

    diffusion_model: Transformer

    def __init__(self, settings: ModelSettings, transformer: Transformer) -> None:
        super().__init__(settings, comfy.model_base.ModelType.FLOW)
        self.diffusion_model = transformer.eval().requires_grad_(False)
        memory.archive_model_dtypes(transformer)

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        *,
        context: Context,
        audio: AudioContext,
        masks: Tensor | None = None,
        timestep: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Latent [B,C,F,h,w] at noise level `t` [B], condition `c_concat` -> clean latent; called by `apply_model`.

        `timestep` [B] where it is not the noise level's own.
        """
        timestep = self.model_sampling.timestep(t).float() if timestep is None else timestep
        ways = host_attention(transformer_options or {}), passes_of(self.diffusion_model, x.device)
        out = self.diffusion_model(x, timestep, c_concat, context, audio, masks, *ways)
        return self.model_sampling.calculate_denoised(t, out, x)


def host_attention(transformer_options: Mapping[str, Any]) -> AttentionFunction:
    """ComfyUI's attention (its kernels, the user's choice and overrides) in our [B,L,N,D] convention."""

    def attention(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        heads = q_BLND.shape[2]
        q, k, v = (x.flatten(2) for x in (q_BLND, k_BSND, v_BSND))
        out_BLC = optimized_attention(q, k, v, heads, transformer_options=transformer_options)
        return out_BLC.unflatten(-1, (heads, -1))

    return attention


def read_weights(files: Sequence[Path], fp8: bool = False) -> Weights:
    """The weights of all files under our names, quantised layers marked as ComfyUI marks them.

    With `fp8`, the blocks' layers that are not quantised are, file by file, as `convert --fp8` does it.
    """
    weights: Weights = {}
    for file in files:
        memory.throw_exception_if_processing_interrupted()
        loaded, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
        loaded, _ = comfy.utils.convert_old_quants(loaded, "", metadata=metadata)
        loaded = {transformer_name(key): tensor for key, tensor in loaded.items()}
        loaded = as_fp8(loaded) if fp8 else loaded
        weights |= comfy.utils.convert_old_quants(loaded, "", metadata={})[0]
    memory.throw_exception_if_processing_interrupted()
    return weights


def as_fp8(weights: Weights) -> Weights:
    """Weights under our names in ComfyUI's scaled layout; a layer that is quantised already stays as it is."""
    unquantised = {name for name, weight in weights.items() if is_quantized(name) and weight.itemsize > 1}
    if not unquantised:
        return weights
    quantised: Weights = {FP8_MARKER: torch.zeros(2).to(FP8)}
    for name in list(weights):
        weight = weights.pop(name)
        if name in unquantised:
            memory.throw_exception_if_processing_interrupted()
            quantised |= scaled_layer(name.removesuffix(".weight"), weight)
        else:
            quantised[name] = weight
    return quantised


def build_model(
    name: str,
    config: TransformerConfig,
    weights: Weights,
    reload: tuple[Callable, tuple],
    disable_dynamic: bool,
    shift: float = 5.0,
) -> Patcher:
    """A MODEL from a state dict with the published keys, in any quantisation that ComfyUI knows.

    `name` says what it is, across restarts. `reload` is a function and its arguments that make the same model anew.
    `shift` stretches its timesteps, unless a stock node sets another.
    """
    device, offload = memory.get_torch_device(), memory.unet_offload_device()
    settings = ModelSettings(config, shift)
    settings.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    stored = None if settings.quant_config else comfy.utils.weight_dtype(weights)
    size = comfy.utils.calculate_parameters(weights)
    dtype = memory.unet_dtype(model_params=size, supported_dtypes=DTYPES, weight_dtype=stored)
    cast = memory.unet_manual_cast(None if settings.quant_config else dtype, device, DTYPES)
    settings.set_inference_dtype(dtype, cast)
    transformer = Transformer(config, _operations(settings, dtype, cast), device=offload, dtype=dtype)
    transformer.dtype = cast or dtype
    patcher = make_patcher(LiveTalkModel(settings, transformer), device, offload, disable_dynamic)
    missing, _ = transformer.load_state_dict(weights, strict=False, assign=patcher.is_dynamic())
    if missing:
        raise CheckpointError(
            f"{name}: {len(missing)} weights are missing ({missing[0]}, ...); needs a whole LiveTalk model: "
            "download it again"
        )
    patcher.set_attachments(KEY, name)
    patcher.cached_patcher_init = reload
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, _refuse_stock_sampler)
    return patcher


def _operations(settings: ModelSettings, dtype: torch.dtype, cast: torch.dtype | None) -> Any:
    """ComfyUI's layers for these weights, of the kind that casts to its input: our model mixes dtypes on purpose."""
    picked = comfy.ops.pick_operations(dtype, cast, model_config=settings)
    return comfy.ops.manual_cast if picked is comfy.ops.disable_weight_init else picked


def make_patcher(
    model: nn.Module, device: torch.device, offload: torch.device, disable_dynamic: bool = False
) -> Patcher:
    """A patcher of the kind that ComfyUI uses now: dynamic where it can."""
    # Looked up at call time: ComfyUI's main.py rebinds CoreModelPatcher.
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return kind(model, load_device=device, offload_device=offload)


def _refuse_stock_sampler(*_: Any, **__: Any) -> None:
    raise InputError(
        "this MODEL is LiveTalk's, and a stock sampler cannot give it speech; this model needs LiveTalk's nodes: "
        "use 'LiveTalk Render' or 'LiveTalk Sample Chunk'"
    )


def wrap_encoder(model: nn.Module) -> Patcher:
    """An encoder of ours under ComfyUI's memory management."""
    memory.archive_model_dtypes(model)
    return make_patcher(
        model.eval().requires_grad_(False), memory.get_torch_device(), memory.text_encoder_offload_device()
    )


def require_livetalk(model: Patcher) -> TransformerConfig:
    """The widths of a LiveTalk MODEL; a clear error for any other, and for one whose noise schedule is another's."""
    inner = getattr(model, "model", model)
    if not isinstance(inner, LiveTalkModel):
        raise InputError(
            f"this MODEL is a {type(inner).__name__}; needs a LiveTalk one: use 'LiveTalk Load Model' or "
            "'LiveTalk Embedded Model'"
        )
    shift_of(model)
    return inner.diffusion_model.config


def shift_of(model: Patcher) -> float:
    """How a MODEL's timesteps are stretched; an error where a stock node has given it a schedule of another kind."""
    sampling = model.get_model_object("model_sampling")
    if not (isinstance(sampling, schedules.ModelSamplingDiscreteFlow) and isinstance(sampling, schedules.CONST)):
        kind = ", ".join(base.__name__ for base in type(sampling).__bases__)
        raise InputError(
            f"a node behind the loader has set another noise schedule ({kind}); a flow's shift is needed: take that "
            "node out, or use ModelSamplingSD3"
        )
    return sampling.shift


def image_tokens(clip_vision: comfy.clip_vision.ClipVisionModel, reference: Tensor) -> Tensor:
    """The vision encoder's tokens [1,S,dim] for a reference [1,3,1,H,W], preprocessed as the reference model does.

    ComfyUI's own encode node crops, antialiases and rounds, and so gives other numbers.
    """
    pixels = preprocess(reference, clip_vision.image_size)

    def tokens(model: Any, device: torch.device) -> Tensor:
        return model(pixel_values=pixels.to(device), intermediate_output=-2)[1]

    return run_on_device(clip_vision.patcher, tokens)


def run_on_device(patcher: Patcher, call: Callable[[Any, torch.device], Tensor]) -> Tensor:
    """Load a patcher's model, call it with its device, and bring the result back to the CPU. Cancels."""
    memory.throw_exception_if_processing_interrupted()
    memory.load_models_gpu([patcher])
    return call(patcher.model, patcher.load_device).float().cpu()
