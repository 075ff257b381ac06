"""The embedded model: the preset `nano`, its weights from `livetalk_core/assets`.

A part without a file there (the text encoder) has weights from a fixed seed, which training begins with, too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast
from zlib import crc32

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config import ImageEncoderConfig, TextEncoderConfig, VAEConfig
from ..models import operations as default_operations
from ..models.audio_encoder import AudioEncoder
from ..models.image_encoder import ImageEncoder
from ..models.text_encoder import ByteTokenizer, TextEncoder
from ..models.transformer import Transformer
from ..models.vae import VAE
from ..presets import PRESETS
from .header import check, fingerprint, said_by_the_system
from .model import Model

NAME = "nano"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
SEED = 20251223

M = TypeVar("M", bound=nn.Module)
Device = torch.device | str
PRESET = PRESETS[NAME]
PARTS = ("transformer", "vae", "audio_encoder", "image_encoder", "text_encoder")


def asset(part: str) -> Path:
    """The file that replaces a seeded part; weights under the model's own keys."""
    return ASSETS / f"{NAME}_{part}.safetensors"


def assets_fingerprint(*parts: str) -> str:
    """Tells the weights of these parts that ship with this version from those of others."""
    return fingerprint(filter(Path.is_file, map(asset, parts)))


def seeded(name: str, shape: torch.Size, like: Tensor) -> Tensor:
    """Random values of one weight, the same wherever and whenever they are made.

    Matrices and kernels keep the variance of what passes them; norms scale by about 1; everything else is small.
    No value path is zero.
    """
    values = torch.randn(shape, generator=torch.Generator().manual_seed(SEED + crc32(name.encode())))
    if len(shape) > 1 and not name.endswith(("gamma", "modulation", "original0")):
        values *= shape[1:].numel() ** -0.5
    elif name.endswith((".weight", "gamma", "original0")):
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return values.to(like.dtype)


def first_weights(part: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights that a part has before any training."""
    return {name: seeded(f"{part}.{name}", tensor.shape, tensor) for name, tensor in model.state_dict().items()}


def weights(part: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a part, for a model on any device, meta included."""
    needed, path = model.state_dict(), asset(part)
    if not path.is_file():
        return first_weights(part, model)
    with said_by_the_system(path):
        tensors = load_file(path)
    check(needed, tensors, str(path))
    return tensors


def build(part: str, make: Callable[[], M], device: Device, dtype: torch.dtype | None) -> M:
    """One part with its weights, for inference."""
    with torch.device("meta"):
        model = make()
    model.load_state_dict({name: t.to(device, dtype) for name, t in weights(part, model).items()}, assign=True)
    return model.eval().requires_grad_(False)


def transformer(device: Device, dtype: torch.dtype | None, operations: Any = default_operations) -> Transformer:
    """The video transformer."""
    return build("transformer", lambda: Transformer(PRESET.transformer, operations, dtype=dtype), device, dtype)


def vae(device: Device, dtype: torch.dtype | None, operations: Any = default_operations) -> VAE:
    """The VAE."""
    return build("vae", lambda: VAE(cast(VAEConfig, PRESET.vae), operations, dtype=dtype), device, dtype)


def audio_encoder(device: Device, dtype: torch.dtype = torch.float32) -> AudioEncoder:
    """The audio encoder."""
    return build("audio_encoder", lambda: AudioEncoder(PRESET.audio), device, dtype)


def image_encoder(device: Device, dtype: torch.dtype | None) -> ImageEncoder:
    """The vision encoder."""
    return build("image_encoder", lambda: ImageEncoder(cast(ImageEncoderConfig, PRESET.image)), device, dtype)


def text_encoder(device: Device, dtype: torch.dtype | None) -> TextEncoder:
    """The text encoder."""
    return build("text_encoder", lambda: TextEncoder(cast(TextEncoderConfig, PRESET.text)), device, dtype)


def open_nano(device: Device, dtype: torch.dtype | None) -> Model:
    """All parts."""
    return Model(
        name=NAME,
        preset=PRESET,
        tokenizer=ByteTokenizer(),
        fingerprint=lambda: assets_fingerprint(*PARTS),
        load_transformer=lambda: transformer(device, dtype),
        load_vae=lambda: vae(device, dtype),
        load_audio_encoder=lambda: audio_encoder(device),
        load_image_encoder=lambda: image_encoder(device, dtype),
        load_text_encoder=lambda: text_encoder(device, dtype),
    )
