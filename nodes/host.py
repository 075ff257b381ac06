"""The one file that touches ComfyUI: memory management, attention, folders, progress, cancelling.

Every model here sits in a patcher of ComfyUI's, which moves it between devices; the arithmetic is the core's.
"""

import glob
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import optimized_attention
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..livetalk_core.checkpoints.keys import prefix_of
from ..livetalk_core.config import TransformerConfig, VAEConfig
from ..livetalk_core.errors import CheckpointError, InputError
from ..livetalk_core.models.attention import AttentionFunction
from ..livetalk_core.models.image_encoder import preprocess
from ..livetalk_core.models.transformer import AudioContext, Context, Transformer
from ..livetalk_core.models.vae import LATENT_CHANNELS, VAE
from ..livetalk_core.sampling.chunk import sample
from ..livetalk_core.sampling.schedule import sigmas
from ..livetalk_core.streaming.avatar import Avatar
from ..livetalk_core.streaming.engine import OnStep

KEY = "livetalk"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
WIDTH_OF_UNIT_MEMORY = 2222
"""Width at which ComfyUI's memory estimate for Wan has factor 1."""
PREVIEW_SIZE = 512

Weights = dict[str, Tensor]
Patcher = Any
"""comfy.model_patcher.ModelPatcher, static or dynamic."""


# --- models -----------------------------------------------------------------------------------------------------------


class ModelSettings(comfy.supported_models_base.BASE):
    """What ComfyUI asks a model about: latent format, noise schedule, dtypes, memory."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = comfy.latent_formats.Wan21
    sampling_settings: ClassVar[dict[str, float]] = {"shift": 5.0}
    supported_inference_dtypes = DTYPES

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__({"disable_unet_model_creation": True})
        self.memory_usage_factor = config.dim / WIDTH_OF_UNIT_MEMORY


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
        **_: Any,
    ) -> Tensor:
        """Latent [B,16,F,h,w] at noise level `t` [B], condition `c_concat` -> clean latent; called by `apply_model`."""
        timestep = self.model_sampling.timestep(t).float()
        attention = host_attention(transformer_options or {})
        out = self.diffusion_model(x, timestep, c_concat, context, audio, masks, attention)
        return self.model_sampling.calculate_denoised(t, out, x)


def host_attention(transformer_options: Mapping[str, Any]) -> AttentionFunction:
    """ComfyUI's attention (its kernels, the user's choice and overrides) in our [B,L,N,D] convention."""

    def attention(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        heads = q_BLND.shape[2]
        q, k, v = (x.flatten(2) for x in (q_BLND, k_BSND, v_BSND))
        out_BLC = optimized_attention(q, k, v, heads, transformer_options=transformer_options)
        return out_BLC.unflatten(-1, (heads, -1))

    return attention


def read_weights(files: Sequence[Path]) -> Weights:
    """The weights of all files, quantised layers marked as ComfyUI marks them, ComfyUI's key prefix taken off."""
    weights: Weights = {}
    for file in files:
        found, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
        found, _ = comfy.utils.convert_old_quants(found, "", metadata=metadata)
        weights |= found
    prefix = prefix_of(weights)
    weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return comfy.utils.convert_old_quants(weights, "", metadata={})[0]


def build_model(
    name: str, config: TransformerConfig, weights: Weights, reload: tuple[Callable, tuple], disable_dynamic: bool
) -> Patcher:
    """A MODEL from a state dict with the published keys, in any quantisation that ComfyUI knows.

    `name` says what it is, across restarts. `reload` is a function and its arguments that make the same model anew.
    """
    device, offload = memory.get_torch_device(), memory.unet_offload_device()
    settings = ModelSettings(config)
    settings.quant_config = comfy.utils.detect_layer_quantization(weights, "")
    stored = None if settings.quant_config else comfy.utils.weight_dtype(weights)
    size = comfy.utils.calculate_parameters(weights)
    dtype = memory.unet_dtype(model_params=size, supported_dtypes=DTYPES, weight_dtype=stored)
    cast = memory.unet_manual_cast(None if settings.quant_config else dtype, device, DTYPES)
    settings.set_inference_dtype(dtype, cast)
    transformer = Transformer(config, _operations(settings, dtype, cast), device=offload, dtype=dtype)
    transformer.dtype = cast or dtype
    patcher = _patcher(LiveTalkModel(settings, transformer), device, offload, disable_dynamic)
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


def _patcher(model: nn.Module, device: torch.device, offload: torch.device, disable_dynamic: bool = False) -> Patcher:
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
    return _patcher(model.eval().requires_grad_(False), memory.get_torch_device(), memory.text_encoder_offload_device())


# --- VAE --------------------------------------------------------------------------------------------------------------


class Conv3d(comfy.ops.manual_cast.Conv3d):
    """ComfyUI's layer; on CPUs through oneDNN, since PyTorch's own path for one small clip is 4-5 times slower."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any, **options: Any) -> Tensor:
        if input.device.type != "cpu" or input.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(input, weight, bias, *rest, **options)
        return torch.mkldnn_convolution(input, weight, bias, self.padding, self.stride, self.dilation, self.groups)


class VAEOperations(comfy.ops.manual_cast):
    """Layers of the VAE."""


VAEOperations.Conv3d = Conv3d


def stock_vae(weights: Weights) -> comfy.sd.VAE:
    """The embedded VAE as a stock VAE: it keeps Wan's layout."""
    vae = comfy.sd.VAE(sd=weights)
    vae.throw_exception_if_invalid()
    return vae


def vae_patcher(vae: comfy.sd.VAE) -> Patcher:
    """Our VAE on the weights of a stock one (shared, not copied, while those are off the GPU); made once per VAE."""
    patcher, device = vae.patcher.get_attachment(KEY), vae.patcher.load_device
    if patcher is None or patcher.load_device != device:  # a clone for another device keeps its attachments
        offload = vae.patcher.offload_device
        patcher = _patcher(_our_vae(vae, offload), device, offload)
        vae.patcher.set_attachments(KEY, patcher)
    return patcher


def _our_vae(vae: comfy.sd.VAE, offload: torch.device) -> VAE:
    weights = {key: tensor.to(offload) for key, tensor in vae.get_sd().items()}
    head = weights.get("decoder.head.0.gamma")
    ours = VAE(VAEConfig(dim=1 if head is None else len(head)), VAEOperations, device="meta", dtype=vae.vae_dtype)
    needed = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    found = {key: tensor.shape for key, tensor in weights.items()}
    if needed != found:
        raise InputError(
            f"this VAE ({type(vae.first_stage_model).__name__}) is not Wan 2.1's; LiveTalk needs one with its layout: "
            "load wan_2.1_vae.safetensors, or use the embedded model's VAE"
        )
    memory.archive_model_dtypes(ours)
    ours.load_state_dict(weights, assign=True)
    return ours.eval().requires_grad_(False)


# --- engine -----------------------------------------------------------------------------------------------------------


class HostEngine:
    """The core's engine verbs, run on a MODEL and a VAE of ComfyUI's. Give what the verbs called will need."""

    def __init__(self, model: Patcher | None = None, vae: comfy.sd.VAE | None = None) -> None:
        self.model, self.vae = model, vae
        self._context: tuple[Tensor, Tensor, Context] | None = None

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See the core's `Engine.denoise`."""
        assert self.model is not None
        with _running(self.model, noise.shape[1:]) as (model, device):
            levels = sigmas(len(noise), model.model_sampling.shift)
            options = _transformer_options(self.model, torch.tensor(levels, device=device))
            conditions = {
                "c_concat": avatar.cond.to(device)[None],
                "context": self._embed(model.diffusion_model, avatar, device),
                "audio": model.diffusion_model.embed_audio(audio.to(device)),
                "masks": None if avatar.masks is None else avatar.masks.to(device),
            }

            def predict(latent: Tensor, sigma: float) -> Tensor:
                level = torch.full((1,), sigma, device=device)
                return model.apply_model(
                    latent[None], level, transformer_options=options | {"sigmas": level}, **conditions
                )[0]

            return sample(predict, motion.to(device), noise.to(device), levels, on_step)

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See the core's `Engine.decode`. Stops between groups of frames when the user cancels."""
        assert self.vae is not None
        patcher = vae_patcher(self.vae)
        group_shape = (1, LATENT_CHANNELS, 4, *latent.shape[-2:])
        memory.load_models_gpu([patcher], memory_required=self.vae.memory_used_decode(group_shape, self.vae.vae_dtype))
        for group in patcher.model.decode_groups(latent.to(patcher.load_device)[None]):
            memory.throw_exception_if_processing_interrupted()
            yield group[0].float()

    def encode(self, frames: Tensor) -> Tensor:
        """See the core's `Engine.encode`."""
        assert self.vae is not None
        patcher = vae_patcher(self.vae)
        group_shape = (1, 3, 4, *frames.shape[-2:])
        memory.load_models_gpu([patcher], memory_required=self.vae.memory_used_encode(group_shape, self.vae.vae_dtype))
        return patcher.model.encode(frames.to(patcher.load_device)[None])[0].float()

    def _embed(self, transformer: Transformer, avatar: Avatar, device: torch.device) -> Context:
        if self._context is None or self._context[0] is not avatar.text or self._context[1] is not avatar.clip:
            context = transformer.embed_context(avatar.text.to(device)[None], avatar.clip.to(device))
            self._context = (avatar.text, avatar.clip, context)
        return self._context[2]


@contextmanager
def _running(patcher: Patcher, latent_shape: tuple[int, ...]) -> Iterator[tuple[LiveTalkModel, torch.device]]:
    """The model on its device, with room for a latent [16,F,h,w], as ComfyUI's samplers set it up."""
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
    return options | {"sample_sigmas": levels, "cond_or_uncond": [0]}


def require_livetalk(model: Patcher) -> TransformerConfig:
    """The widths of a LiveTalk MODEL; a clear error for any other."""
    if not isinstance(model.model, LiveTalkModel):
        raise InputError(
            f"this MODEL is a {type(model.model).__name__}; needs a LiveTalk one: use 'LiveTalk Load Model' or "
            "'LiveTalk Embedded Model'"
        )
    return model.model.diffusion_model.config


def model_identity(model: Patcher) -> str:
    """Names a MODEL across restarts: what it is, what LoRAs and stock nodes have changed, and where it computes."""
    patches = [(key, [(patch[0], patch[2]) for patch in patches]) for key, patches in sorted(model.patches.items())]
    digest = hashlib.sha256(repr(patches).encode()).hexdigest() if patches else "none"
    shift = model.get_model_object("model_sampling").shift
    where = f"{model.load_device.type}, {model.model.get_dtype_inference()}"
    return f"{model.get_attachment(KEY)}, shift {shift}, patches {digest}, on {where}"


def image_tokens(clip_vision: comfy.clip_vision.ClipVisionModel, reference: Tensor) -> Tensor:
    """The vision encoder's tokens [1,S,dim] for a reference [1,3,1,H,W], preprocessed as the reference model does.

    ComfyUI's own encode node crops, antialiases and rounds, and so gives other numbers.
    """
    pixels = preprocess(reference, clip_vision.image_size)

    def tokens(model: Any, device: torch.device) -> Tensor:
        return model(pixel_values=pixels.to(device), intermediate_output=-2)[1]

    return run_on_device(clip_vision.patcher, tokens)


def run_on_device(patcher: Patcher, call: Callable[[Any, torch.device], Tensor]) -> Tensor:
    """Load a patcher's model, call it with its device, and bring the result back to the CPU."""
    memory.load_models_gpu([patcher])
    return call(patcher.model, patcher.load_device).float().cpu()


def raw_latent(latent: Tensor) -> Tensor:
    """Our normalised latent [B,16,F,h,w] as ComfyUI's LATENT holds it: not normalised."""
    return comfy.latent_formats.Wan21().process_out(latent)


def normalised_latent(samples: Tensor) -> Tensor:
    """The inverse of `raw_latent`."""
    return comfy.latent_formats.Wan21().process_in(samples)


# --- user interface ---------------------------------------------------------------------------------------------------


class Progress:
    """The node's progress bar: one unit per denoising step, a preview picture per chunk. Cancels."""

    def __init__(self, steps: int) -> None:
        self.done, self._bar = 0, comfy.utils.ProgressBar(steps)

    def on_step(self, _: int) -> None:
        """Count a denoising step; raises ComfyUI's interrupt when the user has cancelled."""
        memory.throw_exception_if_processing_interrupted()
        self.done += 1
        self._bar.update_absolute(self.done)

    def show(self, done: int, frame: Tensor) -> None:
        """Set the steps done so far and show a frame [H,W,3] uint8."""
        self.done = done
        self._bar.update_absolute(done, preview=("JPEG", Image.fromarray(frame.cpu().numpy()), PREVIEW_SIZE))


def check_cancelled() -> None:
    """Raise ComfyUI's interrupt when the user has cancelled."""
    memory.throw_exception_if_processing_interrupted()


def say(text: str) -> None:
    """Log a message and show it on the running node."""
    logging.info("LiveTalk: %s", text)
    running = get_executing_context()
    if running is not None:
        PromptServer.instance.send_progress_text(text, running.node_id)


class OutputFile:
    """The next free name in ComfyUI's output folder, numbered after those of the same prefix: `name_00001_.mp4`."""

    def __init__(self, prefix: str, width: int, height: int) -> None:
        if not prefix.strip() or Path(prefix).is_absolute() or ".." in Path(prefix).parts:
            raise InputError(
                f"filename prefix {prefix!r} is no name inside ComfyUI's output folder; needs one like video/LiveTalk"
            )
        output = folder_paths.get_output_directory()
        folder, self.name, counter, self.subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
        self.path = Path(folder) / f"{self.name}_{counter:05}_.mp4"

    def newest(self, ending: str) -> Path | None:
        """The latest numbered file of this prefix that ends in `ending`, if there is one."""
        return max(self.path.parent.glob(f"{glob.escape(self.name)}_[0-9][0-9][0-9][0-9][0-9]_{ending}"), default=None)


def video_metadata(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """The workflow for a video's metadata, so that a dragged file restores it; empty where the user wants none."""
    if args.disable_metadata:
        return {}
    values = {**(extra or {}), **({} if prompt is None else {"prompt": prompt})}
    return {key: json.dumps(value) for key, value in values.items()}


def model_files(folder: str) -> list[str]:
    """Names of the safetensors files in one of ComfyUI's model folders."""
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith((".safetensors", ".sft"))]


def model_path(folder: str, name: str) -> Path:
    """Where a file of a model folder lies; an error unless ComfyUI itself lists it."""
    if name not in folder_paths.get_filename_list(folder):
        raise InputError(f"{name!r} is not in ComfyUI's folder {folder!r}; choose a listed file, or press R to refresh")
    return Path(folder_paths.get_full_path_or_raise(folder, name))
