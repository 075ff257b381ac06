"""Key maps, as data: what published and ComfyUI files call each weight, and what our models call it.

Every map takes a mapping from names to tensors and gives a dict under our names. The tensors may be real,
memory-mapped or on the meta device, so one map serves loading and the check of a header alike. A name
that no rule knows is kept, for the check to report.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""What ComfyUI's files put before a transformer's keys."""
ALIASES = {"multitalk_audio_proj.": "audio_proj."}
"""Beginnings of keys that some files name otherwise, and ours: audio layers merged by the Wan video wrapper."""
SCALES = (".scale_weight", ".weight_scale")
"""Endings of the scale of an FP8 weight, ComfyUI's older and newer."""
MARKERS = ("scaled_fp8", "spiece_model")
"""Tensors that say something about the file, not weights."""
MARKER_ENDINGS = (".comfy_quant", ".scale_input", ".input_scale")
PROMPTED = ("audio_cross_attn.", "img_emb.")
"""Parts of a transformer that reads a prompt and hears beside it; FlashHead's has neither."""
UNREAD = ("text_embedding.", "audio_emb.")
"""Beginnings of what FlashHead's files hold though its model has no use for it."""
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class Rule(NamedTuple):
    """Where the weights whose whole name matches `pattern` go.

    Several targets share the tensor's first dimension equally; none means a known extra that is not used.
    """

    pattern: str
    targets: tuple[str, ...] = ()
    drop_leading_ones: bool = False


AUDIO_ENCODER = (
    Rule(r"(?:wav2vec2\.)?masked_spec_embed"),
    Rule(r"(?:quantizer|project_q|project_hid|projector|classifier|lm_head)\..+"),
    Rule(
        r"(?:wav2vec2\.)?(encoder\.pos_conv_embed\.conv)\.weight_g",
        (r"\1.parametrizations.weight.original0",),
    ),
    Rule(
        r"(?:wav2vec2\.)?(encoder\.pos_conv_embed\.conv)\.weight_v",
        (r"\1.parametrizations.weight.original1",),
    ),
    Rule(r"(?:wav2vec2\.)?((?:feature_extractor|feature_projection|encoder)\..+)", (r"\1",)),
)
"""transformers' Wav2Vec2 files, with either style of weight norm, with heads of pre-training or fine-tuning."""

_QKV = tuple(rf"encoder.layers.\1.self_attn.{letter}_proj.\2" for letter in "qkv")
IMAGE_ENCODER = (
    # the published open-clip file
    Rule(r"visual\.cls_embedding", ("class_embedding",), drop_leading_ones=True),
    Rule(r"visual\.pos_embedding", ("position_embedding",), drop_leading_ones=True),
    Rule(r"visual\.(patch_embedding|pre_norm)\.(weight|bias)", (r"\1.\2",)),
    Rule(r"visual\.transformer\.(\d+)\.norm([12])\.(weight|bias)", (r"encoder.layers.\1.layer_norm\2.\3",)),
    Rule(r"visual\.transformer\.(\d+)\.attn\.to_qkv\.(weight|bias)", _QKV),
    Rule(r"visual\.transformer\.(\d+)\.attn\.proj\.(weight|bias)", (r"encoder.layers.\1.self_attn.out_proj.\2",)),
    Rule(r"visual\.transformer\.(\d+)\.mlp\.0\.(weight|bias)", (r"encoder.layers.\1.mlp.fc1.\2",)),
    Rule(r"visual\.transformer\.(\d+)\.mlp\.2\.(weight|bias)", (r"encoder.layers.\1.mlp.fc2.\2",)),
    Rule(r"visual\.post_norm\..+|visual\.head|textual\..+|log_scale"),
    # transformers' names: ComfyUI's clip_vision_h
    Rule(r"vision_model\.embeddings\.class_embedding", ("class_embedding",)),
    Rule(r"vision_model\.embeddings\.position_embedding\.weight", ("position_embedding",)),
    Rule(r"vision_model\.embeddings\.patch_embedding\.weight", ("patch_embedding.weight",)),
    Rule(r"vision_model\.pre_lay(?:er|r)norm\.(weight|bias)", (r"pre_norm.\1",)),
    Rule(r"vision_model\.encoder\.(layers\..+)", (r"encoder.\1",)),
    Rule(r"vision_model\.embeddings\.position_ids|vision_model\.post_layernorm\..+"),
    Rule(r"visual_projection\..+|text_model\..+|text_projection\..+|logit_scale"),
)

TEXT_ENCODER = (
    # the published file
    Rule(r"token_embedding\.weight", ("shared.weight",)),
    Rule(r"norm\.weight", ("final_layer_norm.weight",)),
    Rule(r"blocks\.(\d+)\.norm1\.weight", (r"block.\1.layer.0.layer_norm.weight",)),
    Rule(r"blocks\.(\d+)\.norm2\.weight", (r"block.\1.layer.1.layer_norm.weight",)),
    Rule(r"blocks\.(\d+)\.attn\.([qkvo])\.weight", (r"block.\1.layer.0.SelfAttention.\2.weight",)),
    Rule(
        r"blocks\.(\d+)\.pos_embedding\.embedding\.weight",
        (r"block.\1.layer.0.SelfAttention.relative_attention_bias.weight",),
    ),
    Rule(r"blocks\.(\d+)\.ffn\.gate\.0\.weight", (r"block.\1.layer.1.DenseReluDense.wi_0.weight",)),
    Rule(r"blocks\.(\d+)\.ffn\.fc1\.weight", (r"block.\1.layer.1.DenseReluDense.wi_1.weight",)),
    Rule(r"blocks\.(\d+)\.ffn\.fc2\.weight", (r"block.\1.layer.1.DenseReluDense.wo.weight",)),
    # transformers' names: ComfyUI's umt5_xxl files
    Rule(r"shared\.weight", ("shared.weight",)),
    Rule(r"encoder\.(block\..+|final_layer_norm\.weight)", (r"\1",)),
    Rule(r"encoder\.embed_tokens\.weight"),
)


def remap(weights: Mapping[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """Rename and split weights by the first rule that matches each whole name."""
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    result: dict[str, Tensor] = {}
    for name in weights:
        applied = next(((match, rule) for pattern, rule in compiled if (match := pattern.fullmatch(name))), None)
        if applied is None:
            result[name] = weights[name]
            continue
        match, rule = applied
        names = [match.expand(target) for target in rule.targets]
        result.update(zip(names, _pieces(weights, name, rule), strict=True))
    return result


def _pieces(weights: Mapping[str, Tensor], name: str, rule: Rule) -> tuple[Tensor, ...]:
    if not rule.targets:
        return ()
    tensor = weights[name]
    while rule.drop_leading_ones and tensor.ndim > 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    return torch.atleast_1d(tensor).tensor_split(len(rule.targets)) if len(rule.targets) > 1 else (tensor,)


def base_of_scale(name: str) -> str | None:
    """The layer that a scale belongs to, or None where `name` is no scale."""
    return next((name.removesuffix(ending) for ending in SCALES if name.endswith(ending)), None)


def fits_scale(scale: Tensor, weight: Tensor) -> bool:
    """Whether a scale is one for the whole weight, or one for each of its rows."""
    return scale.ndim <= weight.ndim and (scale.numel() == 1 or scale.shape == (*weight.shape[:1], 1))


def is_marker(name: str) -> bool:
    """Whether `name` is no weight: a quantisation marker or an embedded tokenizer."""
    return name in MARKERS or name.endswith(MARKER_ENDINGS)


def dequantized(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scaled FP8 weights multiplied out to bfloat16, their scales and markers gone; all others as they are.

    A scale that fits no weight is left over, for the check to report.
    """
    scales = {base: name for name in weights if (base := base_of_scale(name)) is not None}
    scales = {f"{base}.weight": name for base, name in scales.items()}
    scales = {name: s for name, s in scales.items() if name in weights and fits_scale(weights[s], weights[name])}
    applied, result = set(scales.values()), dict[str, Tensor]()
    for name in weights:
        if is_marker(name) or name in applied:
            continue
        scale, tensor = scales.get(name), weights[name]
        result[name] = tensor if scale is None else (tensor.float() * weights[scale].float()).bfloat16()
    return result


def prefix_of(weights: Mapping[str, Tensor]) -> str:
    """What comes before a transformer's own keys in this file."""
    return next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in weights)), "")


def transformer_name(name: str) -> str:
    """What we call a transformer's weight: without a file's prefix, with one name for each layer."""
    short = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    return next((own + short.removeprefix(alias) for alias, own in ALIASES.items() if short.startswith(alias)), short)


def unread(weights: Mapping[str, Tensor]) -> set[str]:
    """Names of what a transformer's file holds and its model never reads."""
    if any(part in name for name in weights for part in PROMPTED):
        return set()
    return {name for name in weights if transformer_name(name).startswith(UNREAD)}


def transformer(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's weights without prefix; the scale of an FP8 weight becomes `scale_weight`.

    What its model never reads is left out.
    """
    result: dict[str, Tensor] = {}
    left_out = unread(weights)
    for name in weights:
        short = transformer_name(name)
        if is_marker(short) or name in left_out:
            continue
        base = base_of_scale(short)
        result[short if base is None else f"{base}.scale_weight"] = weights[name]
    return result


def vae(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's weights: published and ComfyUI's names are ours."""
    return dict(weights)


def audio_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The audio encoder's weights."""
    return remap(weights, AUDIO_ENCODER)


def image_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision encoder's weights, the last layer (which is never read) left out."""
    result = remap(weights, IMAGE_ENCODER)
    last = f"encoder.layers.{count(result, 'encoder.layers') - 1}."
    return {name: tensor for name, tensor in result.items() if not name.startswith(last)}


def text_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's weights; scaled FP8 ones are multiplied out."""
    return remap(dequantized(weights), TEXT_ENCODER)


def count(weights: Mapping[str, Tensor], stem: str) -> int:
    """How many numbered layers `stem.0`, `stem.1`, ... there are; gaps between them are for the check to report."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)\.")
    return len({match[1] for name in weights if (match := pattern.match(name))})
