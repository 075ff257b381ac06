"""FlashHead's and LeapTalk's folders as published, with small random weights, beside the embedded audio encoder."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from livetalk_core.checkpoints import nano
from livetalk_core.checkpoints.convert import convert
from livetalk_core.config import LTXVAEConfig, TransformerConfig
from livetalk_core.models.ltx_vae import LTXVAE
from livetalk_core.models.transformer import Transformer
from livetalk_core.shapes import LTX

PRO = TransformerConfig(
    dim=96, ffn_dim=128, num_heads=4, num_layers=2, in_dim=32, freq_dim=32, audio_blocks=4, audio_channels=64,
    intermediate_dim=32, output_dim=96, context_tokens=4, prompted=False,
)  # fmt: skip
LITE = replace(PRO, in_dim=256, out_dim=128, geometry=LTX)
LTX_WIDTHS = LTXVAEConfig((4, 4, 8, 8), (1, 1, 1, 1, 1))
RANK = 4


def published_config(config: TransformerConfig) -> dict[str, object]:
    """As FlashHead's `config.json` says it, with what that leaves out and shapes do not tell."""
    stride, patch = config.geometry.spatial_stride, config.geometry.patch
    names = ("dim", "num_heads", "num_layers", "in_dim", "out_dim", "freq_dim", "audio_channels")
    return {
        "_class_name": "WanModelAudioProject", "has_image_input": False, "patch_size": [1, patch, patch],
        "vae_stride": [config.geometry.temporal_stride, stride, stride], **{n: getattr(config, n) for n in names},
    }  # fmt: skip


def transformer_weights(config: TransformerConfig) -> dict[str, Tensor]:
    """Under the published keys, those that nobody reads included."""
    with torch.device("meta"):
        model = Transformer(config)
    unread = {"text_embedding.0.weight": torch.ones(4, 3), "audio_emb.proj.0.weight": torch.ones(5)}
    return nano.first_weights("transformer", model) | unread


def transformer_folder(folder: Path, config: TransformerConfig) -> None:
    """`Model_Pro` or `Model_Lite`."""
    folder.mkdir(parents=True)
    save_file(transformer_weights(config), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(published_config(config)))


def adapter_weights(config: TransformerConfig, rank: int = RANK) -> dict[str, Tensor]:
    """An adapter of q, k, v and o of both attentions of every block."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for block in range(config.num_layers):
        for layer in (f"{attention}.{name}" for attention in ("self_attn", "cross_attn") for name in "qkvo"):
            stem = f"base_model.model.blocks.{block}.{layer}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, config.dim, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(config.dim, rank, generator=generator)
    return tensors


def projection_weights(config: TransformerConfig) -> dict[str, Tensor]:
    """The projection of sound, under its own names."""
    named = transformer_weights(config).items()
    own = {name.removeprefix("audio_proj."): value for name, value in named if name.startswith("audio_proj.")}
    return {name: (value + 1).bfloat16() for name, value in own.items()}


def adapter_folder(folder: Path, config: TransformerConfig, rank: int = RANK) -> None:
    """`leaptalk`: the adapter in `lora`, the projection, a pickle, beside it."""
    (folder / "lora").mkdir(parents=True)
    save_file(adapter_weights(config, rank), folder / "lora" / "adapter_model.safetensors")
    config_file = {"r": RANK, "lora_alpha": 8, "bias": "none", "target_modules": ["q", "k", "v", "o"]}
    (folder / "lora" / "adapter_config.json").write_text(json.dumps(config_file))
    torch.save(projection_weights(config), folder / "audio_proj_step_10400.pt")


def publish(root: Path) -> Path:
    """The folder that holds both members; the audio encoder and LeapTalk lie beside it."""
    from .conftest import audio_folder, weights  # where pytest is not installed, the rest still is of use

    folder = root / "SoulX-FlashHead-1_3B"
    transformer_folder(folder / "Model_Pro", PRO)
    transformer_folder(folder / "Model_Lite", LITE)
    (folder / "VAE_Wan").mkdir()
    save_file(weights("vae"), folder / "VAE_Wan" / "Wan2.1_VAE.safetensors")
    (folder / "VAE_LTX").mkdir()
    with torch.device("meta"):
        vae = LTXVAE(LTX_WIDTHS)
    scales = {"latents_mean": torch.zeros(128), "latents_std": torch.ones(128)}
    save_file(nano.first_weights("vae", vae) | scales, folder / "VAE_LTX" / "diffusion_pytorch_model.safetensors")
    audio_folder(root / "wav2vec2-base-960h")
    adapter_folder(root / "leaptalk", PRO)
    return folder


MEMBERS = {"flashhead-pro": "Model_Pro", "flashhead-lite": "Model_Lite", "leaptalk": "Model_Pro"}
"""Where each member's transformer lies in the folder that `publish` gives."""


def options_of(folder: Path, member: str) -> list[str]:
    """The options by which a command takes a member from there, LeapTalk's pickle converted as a user would."""
    options = ["--model", str(folder / MEMBERS[member])]
    if member != "leaptalk":
        return options
    adapter = folder.parent / "leaptalk"
    if not (adapter / "audio_proj.safetensors").exists():
        convert(adapter / "audio_proj_step_10400.pt", adapter / "audio_proj.safetensors")
    return [*options, "--patch", str(adapter)]
