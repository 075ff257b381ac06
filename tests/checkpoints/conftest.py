"""A model's folder as published, made from the embedded model's parts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from livetalk_core.checkpoints import nano

TRANSFORMER_CONFIG = {
    "_class_name": "WanModel", "dim": 192, "num_heads": 6, "num_layers": 6, "text_len": 32,
    "audio_blocks": 4, "audio_channels": 64, "repeats_portrait": True,
}  # fmt: skip


def weights(part: str) -> dict[str, torch.Tensor]:
    """A part of the embedded model, under our own keys."""
    build = getattr(nano, part)
    return build("cpu", torch.float32).state_dict()


def save_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int = 3) -> Path:
    """Shards with their index, named as published; the index."""
    names = sorted(tensors)
    where = {}
    for shard in range(count):
        file = f"diffusion_pytorch_model-{shard + 1:05d}-of-{count:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::count]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def image_file(path: Path) -> None:
    """The vision encoder as ComfyUI's file names it, its last layer (never read) included."""
    own, names = weights("image_encoder"), {}
    embeddings = "vision_model.embeddings"
    names["class_embedding"] = f"{embeddings}.class_embedding"
    names["position_embedding"] = f"{embeddings}.position_embedding.weight"
    names["patch_embedding.weight"] = f"{embeddings}.patch_embedding.weight"
    tensors = {names.get(name, f"vision_model.{name}".replace("pre_norm", "pre_layrnorm")): own[name] for name in own}
    last = {name.replace("layers.1.", "layers.2."): tensor + 1 for name, tensor in tensors.items() if ".1." in name}
    save_file(tensors | last, path, {"config": json.dumps({"num_heads": 4})})


def text_file(path: Path) -> None:
    """The text encoder as ComfyUI's file names it."""
    own = weights("text_encoder")
    save_file({name if name.startswith("shared") else f"encoder.{name}": own[name] for name in own}, path)


def audio_folder(folder: Path) -> None:
    """The audio encoder as a folder of `transformers`, with a head of its pre-training."""
    folder.mkdir()
    tensors = {f"wav2vec2.{name}": tensor for name, tensor in weights("audio_encoder").items()}
    save_file(tensors | {"quantizer.codevectors": torch.zeros(2)}, folder / "model.safetensors")
    config = {"model_type": "wav2vec2", "num_attention_heads": 4, "do_stable_layer_norm": False}
    (folder / "config.json").write_text(json.dumps(config))


def tokenizer_folder(folder: Path) -> None:
    """A tokenizer of three words."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "person": 4, "talks": 5}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The whole folder."""
    folder = tmp_path / "SoulX-FlashTalk-small"
    folder.mkdir()
    save_shards(folder, weights("transformer"))
    (folder / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    text_file(folder / "models_t5_umt5-xxl-enc-bf16.safetensors")
    image_file(folder / "clip_vision_h.safetensors")
    save_file(weights("vae"), folder / "Wan2.1_VAE.safetensors")
    audio_folder(folder / "chinese-wav2vec2-base")
    tokenizer_folder(folder / "google" / "umt5-xxl")
    return folder
