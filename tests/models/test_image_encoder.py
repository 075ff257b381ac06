"""The vision encoder: the reference's numbers, from either layout of keys."""

import json

import pytest
import torch
from safetensors import safe_open

from livetalk_core.checkpoints import keys
from livetalk_core.config import ImageEncoderConfig
from livetalk_core.models.image_encoder import ImageEncoder


@pytest.fixture(scope="module")
def example(golden):
    with safe_open(golden / "image.safetensors", "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    return metadata, tensors, weights


def loaded(metadata, weights):
    names = ("dim", "num_layers", "num_heads", "image_size", "patch_size")
    encoder = ImageEncoder(ImageEncoderConfig(**{name: metadata[name] for name in names})).eval()
    encoder.load_state_dict(keys.image_encoder(weights))
    return encoder


def transformers_names(weights):
    """The same weights as transformers' CLIPVisionModel calls them, which is how ComfyUI's file has them."""
    renamed = {}
    simple = {
        "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
        "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2",
    }  # fmt: skip
    for name, tensor in weights.items():
        parts = name.split(".")
        if name.startswith("visual.transformer."):
            stem, end = f"vision_model.encoder.layers.{parts[2]}", parts[-1]
            middle = ".".join(parts[3:-1])
            if middle == "attn.to_qkv":
                for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{stem}.self_attn.{letter}_proj.{end}"] = piece
            else:
                renamed[f"{stem}.{simple[middle]}.{end}"] = tensor
    embeddings = "vision_model.embeddings"
    renamed[f"{embeddings}.class_embedding"] = weights["visual.cls_embedding"].flatten()
    renamed[f"{embeddings}.position_embedding.weight"] = weights["visual.pos_embedding"][0]
    renamed[f"{embeddings}.patch_embedding.weight"] = weights["visual.patch_embedding.weight"]
    renamed[f"{embeddings}.position_ids"] = torch.arange(17)
    for end in ("weight", "bias"):
        renamed[f"vision_model.pre_layrnorm.{end}"] = weights[f"visual.pre_norm.{end}"]
        renamed[f"vision_model.post_layernorm.{end}"] = weights[f"visual.post_norm.{end}"]
    renamed["visual_projection.weight"] = weights["visual.head"].T
    return renamed


@pytest.mark.parametrize("layout", [dict, transformers_names])
@torch.inference_mode()
def test_pixels_and_tokens_are_the_references(example, layout):
    metadata, tensors, weights = example
    encoder = loaded(metadata, layout(weights))
    pixels = encoder.preprocess(tensors["io.frame"])
    torch.testing.assert_close(pixels, tensors["io.pixels"], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoder.embed(pixels), tensors["io.out"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "visual.cls_embedding",
        "visual.pos_embedding",
        "visual.pre_norm.weight",
        "visual.transformer.0.attn.to_qkv.weight",
        "visual.transformer.1.mlp.2.bias",
    ],
)
@torch.inference_mode()
def test_parity_notices_one_changed_weight(example, name):
    metadata, tensors, weights = example
    encoder = loaded(metadata, {**weights, name: weights[name] * 1.05})
    assert (encoder.embed(tensors["io.pixels"]) - tensors["io.out"]).abs().max() > 1e-4


def test_the_last_layer_is_not_built(example):
    metadata, _, weights = example
    assert not [name for name in loaded(metadata, weights).state_dict() if name.startswith("encoder.layers.2.")]
