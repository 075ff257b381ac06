"""Models: the embedded one with all its parts, and files from ComfyUI's model folders.

Two loaders for two kinds of model, so that no output is ever empty: only the embedded one brings a VAE.
"""

import re
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..livetalk_core.checkpoints import configs, keys, nano
from ..livetalk_core.checkpoints.header import INDEX_ENDING, open_checkpoint
from ..livetalk_core.checkpoints.load import load_audio_encoder, transformer_part
from ..livetalk_core.config import TransformerConfig
from ..livetalk_core.models.audio_encoder import AudioEncoder
from . import host
from .handles import AudioEncoderSocket, HostedAudioEncoder

TRANSFORMERS = "diffusion_models"
AUDIO_ENCODERS = "audio_encoders"
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
        vae = host.stock_vae(nano.vae("cpu", torch.float32).state_dict())
        return io.NodeOutput(embedded_transformer(), vae, hosted(nano.audio_encoder("cpu")))


class LoadModel(io.ComfyNode):
    """A transformer from `models/diffusion_models`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkLoadModel",
            display_name="LiveTalk Load Model",
            category="LiveTalk",
            description="Loads a LiveTalk (SoulX-FlashTalk) transformer. VAE, text and vision encoder come from stock "
            "loaders.",
            search_aliases=["flashtalk", "soulx", "diffusion model", "unet loader"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.model_files(TRANSFORMERS),
                    tooltip="A file in models/diffusion_models: published, merged, ComfyUI-prefixed or FP8-scaled. "
                    "Of shards, choose any one.",
                )
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For LiveTalk Render or Sample Chunk.")],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        """Check the file's header, then load it."""
        return io.NodeOutput(file_transformer(str(host.model_path(TRANSFORMERS, model_name))))


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
                    options=host.model_files(AUDIO_ENCODERS),
                    tooltip="A file in models/audio_encoders: chinese-wav2vec2-base for the 14B model.",
                )
            ],
            outputs=[AudioEncoderSocket.Output(display_name="audio_encoder", tooltip="For LiveTalk Encode Speech.")],
        )

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        """Check the file's header, then load it."""
        return io.NodeOutput(hosted(load_audio_encoder(host.model_path(AUDIO_ENCODERS, encoder_name), "cpu")))


def embedded_transformer(disable_dynamic: bool = False) -> Any:
    """The embedded MODEL; ComfyUI calls this again where it needs a copy of its own."""
    weights = nano.transformer("cpu", torch.float32).state_dict()
    reload = (embedded_transformer, ())
    return host.build_model(nano.NAME, nano.PRESET.transformer, weights, reload, disable_dynamic)


def file_transformer(path: str, disable_dynamic: bool = False) -> Any:
    """The MODEL in a file, or in the shards that it is one of; ComfyUI calls this again for a copy of its own."""
    source = whole_model(Path(path))
    config, files = transformer_config(source), open_checkpoint(source).files
    weights = host.read_weights(files)
    name = f"{source.name}, {sum(file.stat().st_size for file in files)} bytes"
    return host.build_model(name, config, weights, (file_transformer, (path,)), disable_dynamic)


def whole_model(path: Path) -> Path:
    """The index of the shards that `path` is one of, or `path` itself."""
    shard = re.fullmatch(r"(.+)-\d+-of-\d+", path.stem)
    index = path.with_name(f"{shard[1]}{INDEX_ENDING}") if shard else path
    return index if index.exists() else path


def transformer_config(path: Path) -> TransformerConfig:
    """Widths of the transformer in a file whose header fits; layers in ComfyUI's own formats are left to ComfyUI."""
    checkpoint = open_checkpoint(path)
    quantised = "_quantization_metadata" in checkpoint.metadata or any(name.endswith(QUANTISED) for name in checkpoint)
    if quantised:
        return configs.transformer_config(checkpoint, keys.transformer(checkpoint.header()))
    return transformer_part(path).config


def hosted(encoder: AudioEncoder) -> HostedAudioEncoder:
    """An audio encoder under ComfyUI's memory management."""
    return HostedAudioEncoder(host.wrap_encoder(encoder), encoder.lufs, encoder.blocks, encoder.channels)
