"""A folder laid out as the 14B model is published: whole headers, and weights of zeros that take no room on disk."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from livetalk_core.config import AudioEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from livetalk_core.models.audio_encoder import AudioEncoder
from livetalk_core.models.image_encoder import ImageEncoder
from livetalk_core.models.text_encoder import TextEncoder

KEYS = Path(__file__).resolve().parents[2] / "tests" / "golden" / "checkpoint_keys.json"
NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
CLIP_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    "patch_embedding.weight": "embeddings.patch_embedding.weight",
    "pre_norm.weight": "pre_layrnorm.weight",
    "pre_norm.bias": "pre_layrnorm.bias",
}
SHARDS = 8
Shapes = Mapping[str, Iterable[int]]


def published(folder: Path, blocks: int = 40) -> Path:
    """Write the folder, its transformer with so many of its 40 blocks, unless it is there."""
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(KEYS.read_text())
    kept = {f"blocks.{index}." for index in range(blocks)}
    transformer = {
        name: shape for name, shape in manifest["dit_14b"].items()
        if not name.startswith("blocks.") or f"blocks.{name.split('.')[1]}." in kept
    }  # fmt: skip
    _write_shards(folder, transformer)
    _write(folder / "Wan2.1_VAE.safetensors", manifest["vae"], torch.float32)
    text = _shapes(lambda: TextEncoder(TextEncoderConfig()))
    text = {name if name == "shared.weight" else f"encoder.{name}": shape for name, shape in text.items()}
    _write(folder / "umt5_xxl_bf16.safetensors", text, torch.bfloat16)
    _write(folder / "clip_vision_h.safetensors", _clip(_shapes(lambda: ImageEncoder(ImageEncoderConfig()))))
    sound = folder / "chinese-wav2vec2-base"
    sound.mkdir(exist_ok=True)
    _write(sound / "model.safetensors", _shapes(lambda: AudioEncoder(AudioEncoderConfig())), torch.float32)
    (sound / "config.json").write_text(json.dumps({"num_attention_heads": 12}))
    tokenizer = folder / "google/umt5-xxl/tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_text("{}")
    (folder / "done").touch()
    return folder


def _write_shards(folder: Path, shapes: Shapes) -> None:
    """As published: one file of 35 GiB could not be mapped by a machine of less memory."""
    names, places = list(shapes), {}
    for index in range(SHARDS):
        file = f"diffusion_pytorch_model-{index + 1:05d}-of-{SHARDS:05d}.safetensors"
        _write(folder / file, {name: shapes[name] for name in names[index::SHARDS]}, torch.bfloat16)
        places |= dict.fromkeys(names[index::SHARDS], file)
    index_file = folder / "diffusion_pytorch_model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": places}))


def _clip(shapes: Mapping[str, list[int]]) -> Shapes:
    """Under ComfyUI's names, with the last block that the model does not read."""
    last = {name.replace("layers.30.", "layers.31."): s for name, s in shapes.items() if "layers.30." in name}
    return {f"vision_model.{CLIP_NAMES.get(name, name)}": shape for name, shape in (dict(shapes) | last).items()}


def _shapes(build: Callable[[], nn.Module]) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in build().state_dict().items()}


def _write(path: Path, shapes: Shapes, dtype: torch.dtype = torch.float16) -> None:
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
