"""Models: the embedded one with all its parts, and files from ComfyUI's model folders.

Two loaders for two kinds of model, so that no output is ever empty: only the embedded one brings a VAE. A VAE that
ComfyUI's own loader reads comes from there.
"""

import re
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..livetalk_core.checkpoints import configs, keys, nano
from ..livetalk_core.checkpoints.adapted import is_adapter
from ..livetalk_core.checkpoints.header import INDEX_ENDING, fingerprint, open_checkpoint
from ..livetalk_core.checkpoints.load import audio_encoder_part, patched, transformer_part, vae_part
from ..livetalk_core.config import INFINITETALK, StreamConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.models.audio_encoder import AudioEncoder
from . import host
from .guidance import Guided, mark
from .handles import AudioEncoderSocket, HostedAudioEncoder

TRANSFORMERS = "diffusion_models"
PATCHES = "model_patches"
NO_PATCH = "none"
NO_FILE = "none there yet: see this node's help"
"""What stands in place of an empty list."""
DEFAULT, AS_FP8 = "default", "fp8_e4m3fn"
MODEL_LINK = "https://huggingface.co/Soul-AILab/SoulX-FlashTalk-14B"
ENCODER_LINK = "https://huggingface.co/Kijai/wav2vec2_safetensors/resolve/main/wav2vec2-chinese-base_fp32.safetensors"
VAE_LINK = (
    "https://huggingface.co/Soul-AILab/SoulX-FlashHead-1_3B/resolve/main/VAE_LTX/diffusion_pytorch_model.safetensors"
)
AUDIO_ENCODERS = "audio_encoders"
VAES = "vae"
QUANTISED = ".comfy_quant"
"""Ending of the tensors by which ComfyUI marks a quantised layer."""


class EmbeddedModel(io.ComfyNode):
    """The model that ships with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkEmbeddedModel",
            display_name="LiveTalk Embedded Model",
            category="LiveTalk",
            description=f"The small model that ships with LiveTalk ({nano.NAME}), with all its parts: runs on a CPU, "
            "needs no download.",
            search_aliases=["nano", "load model", "talking avatar"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For LiveTalk Render or Sample Chunk."),
                io.Vae.Output(display_name="vae", tooltip="For LiveTalk Avatar, Render and Decode Chunk."),
                AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For LiveTalk Encode Speech."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Build all parts."""
        built = nano.vae("cpu", torch.float32)
        vae = host.stock_vae(built.state_dict(), built.config)
        encoder = hosted(nano.audio_encoder("cpu"), nano.assets_fingerprint("audio_encoder"))
        return io.NodeOutput(embedded_transformer(), vae, encoder)


class LoadModel(io.ComfyNode):
    """A transformer from `models/diffusion_models`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkLoadModel",
            display_name="LiveTalk Load Model",
            category="LiveTalk",
            description="Loads a transformer: LiveTalk's 14B (SoulX-FlashTalk), FlashHead Pro or Lite, or Wan 2.1 I2V "
            "14B with an InfiniteTalk patch. Which it is, the file says. LeapTalk's LoRA goes on FlashHead Pro.",
            search_aliases=[
                "flashtalk",
                "flashhead",
                "leaptalk",
                "soulx",
                "diffusion model",
                "unet loader",
                "infinitetalk",
                "multitalk",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.model_files(TRANSFORMERS) or [NO_FILE],
                    tooltip="A file in models/diffusion_models: published, merged, ComfyUI-prefixed or FP8-scaled. "
                    "Of shards, choose any one.",
                ),
                io.Combo.Input(
                    "model_patch",
                    options=[NO_PATCH, *host.model_files(PATCHES)],
                    default=NO_PATCH,
                    tooltip="An InfiniteTalk patch in models/model_patches, for a Wan 2.1 I2V 14B model, which has no "
                    "audio layers. Such weights need LiveTalk Guidance behind the loader.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=[DEFAULT, AS_FP8],
                    default=DEFAULT,
                    tooltip="fp8_e4m3fn: quantised while it is loaded, half the memory, a little less exact, as a file "
                    "made by convert --fp8. default: as the file has it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For LiveTalk Render or Sample Chunk; with a patch, LiveTalk Guidance.",
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, model_patch: str, weight_dtype: str) -> io.NodeOutput:
        """Check the files' headers, then load them."""
        refuse_none(model_name, "transformer", TRANSFORMERS, MODEL_LINK)
        patch = "" if model_patch == NO_PATCH else str(host.model_path(PATCHES, model_patch))
        path = str(host.model_path(TRANSFORMERS, model_name))
        return io.NodeOutput(file_transformer(path, patch, fp8=weight_dtype == AS_FP8))


class LoadVAE(io.ComfyNode):
    """A VAE from `models/vae`, of whichever layout LiveTalk knows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkLoadVAE",
            display_name="LiveTalk Load VAE",
            category="LiveTalk",
            description="Loads FlashHead Lite's VAE (its folder VAE_LTX), which ComfyUI's own loader does not know, or "
            "Wan 2.1's.",
            search_aliases=["ltx vae", "flashhead lite", "vae loader"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=host.model_files(VAES) or [NO_FILE],
                    tooltip="A file in models/vae: the LTX VAE as FlashHead publishes it. For FlashHead Pro and the "
                    "14B model ComfyUI's own Load VAE does, too.",
                )
            ],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For LiveTalk Avatar, Render and Decode Chunk.")],
        )

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        """Check the file's header, then load it."""
        refuse_none(vae_name, "VAE", VAES, VAE_LINK)
        part = vae_part(host.model_path(VAES, vae_name))
        return io.NodeOutput(host.stock_vae(part.weights(), part.config))


class LoadAudioEncoder(io.ComfyNode):
    """A wav2vec2 encoder from `models/audio_encoders`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkLoadAudioEncoder",
            display_name="LiveTalk Load Audio Encoder",
            category="LiveTalk",
            description="Loads the wav2vec2 encoder that hears the speech. ComfyUI's own gives other numbers.",
            search_aliases=["wav2vec", "speech encoder"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=host.model_files(AUDIO_ENCODERS) or [NO_FILE],
                    tooltip="A file in models/audio_encoders: wav2vec2-chinese-base for the 14B model, "
                    "wav2vec2-base-960h for FlashHead and LeapTalk.",
                )
            ],
            outputs=[AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For LiveTalk Encode Speech.")],
        )

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        """Check the file's header, then load it."""
        refuse_none(encoder_name, "audio encoder", AUDIO_ENCODERS, ENCODER_LINK)
        part = audio_encoder_part(host.model_path(AUDIO_ENCODERS, encoder_name))
        return io.NodeOutput(hosted(part.load("cpu", torch.float32), fingerprint(part.checkpoint.files)))


def embedded_transformer(disable_dynamic: bool = False) -> Any:
    """The embedded MODEL; ComfyUI calls this again where it needs a copy of its own."""
    weights = nano.transformer("cpu", torch.float32).state_dict()
    reload = (embedded_transformer, ())
    name = named(nano.NAME, nano.assets_fingerprint("transformer"))
    return host.build_model(name, nano.PRESET.transformer, weights, reload, disable_dynamic)


def named(name: str, weights: str) -> str:
    """What a MODEL is called across restarts: its file's name, and the beginning of the weights' fingerprint."""
    return f"{name}, weights {weights[:16]}"


def refuse_none(chosen: str, what: str, folder: str, link: str) -> None:
    """Raise `InputError` where a list was empty, and say what to download."""
    if chosen == NO_FILE:
        raise InputError(
            f"there is no {what} in ComfyUI's models/{folder}; one is needed: download {link}, put it there and press "
            "R, or use LiveTalk Embedded Model, which needs no download"
        )


def file_transformer(path: str, patch: str = "", fp8: bool = False, disable_dynamic: bool = False) -> Any:
    """The MODEL in a file, or in the shards that it is one of; ComfyUI calls this again for a copy of its own.

    With the path of an InfiniteTalk `patch`, the file is a Wan 2.1 model; the MODEL says that it is not distilled.
    With `fp8` it is quantised on the way in.
    """
    source, added = whole_model(Path(path)), Path(patch) if patch else None
    if added is not None and is_adapter(added):
        raise InputError(
            f"{added.name} is a LoRA, not a patch; make one file of it and its projection of sound by 'python -m "
            "livetalk_core convert', put that into models/loras, and load it with Load LoRA"
        )
    config = transformer_config(source, added)
    checkpoint = open_checkpoint(source) if added is None else patched(source, added)
    weights = host.read_weights(checkpoint.files, fp8)
    what = f"{source.name}{f' with {added.name}' if added else ''}{', made FP8' if fp8 else ''}"
    name = named(what, fingerprint(checkpoint.files))
    shift = INFINITETALK.shift if added else StreamConfig.shift
    model = host.build_model(name, config, weights, (file_transformer, (path, patch, fp8)), disable_dynamic, shift)
    if added:
        mark(model, Guided(made_for=INFINITETALK))
    return model


def whole_model(path: Path) -> Path:
    """The index of the shards that `path` is one of, or `path` itself."""
    shard = re.fullmatch(r"(.+)-\d+-of-\d+", path.stem)
    index = path.with_name(f"{shard[1]}{INDEX_ENDING}") if shard else path
    return index if index.exists() else path


def transformer_config(path: Path, patch: Path | None = None) -> TransformerConfig:
    """Widths of the transformer in a file whose header fits; layers in ComfyUI's own formats are left to ComfyUI."""
    checkpoint = open_checkpoint(path) if patch is None else patched(path, patch)
    quantised = "_quantization_metadata" in checkpoint.metadata or any(name.endswith(QUANTISED) for name in checkpoint)
    if quantised:
        return configs.transformer_config(checkpoint, keys.transformer(checkpoint.header()))
    return transformer_part(path, patch=patch).config


def hosted(encoder: AudioEncoder, weights: str) -> HostedAudioEncoder:
    """An audio encoder under ComfyUI's memory management, and its weights' fingerprint."""
    return HostedAudioEncoder(host.wrap_encoder(encoder), encoder.lufs, encoder.blocks, encoder.channels, weights)
