"""The key maps take every name once, and keep what they do not know."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.checkpoints import keys


def test_unknown_names_are_kept_for_the_report():
    weights = {"something.else": torch.zeros(1)}
    for rename in (keys.audio_encoder, keys.image_encoder, keys.text_encoder, keys.transformer, keys.vae):
        assert rename(weights) == weights


def test_queries_keys_and_values_are_split_in_order():
    found = keys.remap({"visual.transformer.7.attn.to_qkv.bias": torch.arange(6)}, keys.IMAGE_ENCODER)
    stem = "encoder.layers.7.self_attn"
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        f"{stem}.q_proj.bias": [0, 1], f"{stem}.k_proj.bias": [2, 3], f"{stem}.v_proj.bias": [4, 5],
    }  # fmt: skip


@given(st.sampled_from(["", *keys.PREFIXES]))
def test_the_transformers_keys_survive_any_prefix(prefix):
    names = ["patch_embedding.weight", "blocks.39.ffn.0.weight", "head.modulation"]
    tensors = {name: torch.zeros(1) for name in names}
    assert keys.transformer({prefix + name: tensor for name, tensor in tensors.items()}) == tensors


def test_scales_of_either_style_become_one_and_markers_go():
    weights = {
        "a.weight": torch.ones(1), "a.scale_weight": torch.ones(()), "b.weight_scale": torch.ones(()),
        "a.comfy_quant": torch.ones(1), "a.scale_input": torch.ones(()), "b.input_scale": torch.ones(()),
        "scaled_fp8": torch.ones(2),
    }  # fmt: skip
    assert keys.transformer(weights).keys() == {"a.weight", "a.scale_weight", "b.scale_weight"}


def test_layers_are_counted_whatever_their_numbers_say():
    names = ["blocks.0.a", "blocks.0.b", "blocks.1.a", f"blocks.{'9' * 5000}.a", "other.30.c"]
    weights = dict.fromkeys(names, torch.zeros(1))
    assert keys.count(weights, "blocks") == 3
    assert keys.count(weights, "none") == 0


def test_what_cannot_be_split_keeps_its_names_for_the_check():
    fused = {"visual.transformer.0.attn.to_qkv.weight": torch.ones(()), "visual.head": torch.ones(())}
    assert all(f"encoder.layers.0.self_attn.{x}_proj.weight" in keys.remap(fused, keys.IMAGE_ENCODER) for x in "qkv")
