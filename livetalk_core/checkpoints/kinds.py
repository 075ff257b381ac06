"""What a file of weights is, in words, from its names and shapes alone."""

from collections.abc import Mapping
from math import prod

from torch import Tensor

from .header import Checkpoint
from .keys import PROMPTED

LIVETALK = "a LiveTalk video transformer"
FLASHHEAD_PRO = "FlashHead Pro's video transformer"
FLASHHEAD_LITE = "FlashHead Lite's video transformer"
FLASHHEADS = (FLASHHEAD_PRO, FLASHHEAD_LITE)
TRANSFORMERS = (LIVETALK, *FLASHHEADS)
WAN = "a Wan video transformer without LiveTalk's audio layers (an InfiniteTalk patch can add them)"
AUDIO_PATCH = "a patch of audio layers alone (InfiniteTalk, MultiTalk)"
ADAPTER = "an adapter (LoRA) in PEFT's layout"
AUDIO_PROJECTION = "the projection of sound alone (LeapTalk's audio_proj)"
WAN_VAE = "a Wan 2.1 VAE"
LTX_VAE = "an LTX VAE"
WAV2VEC2 = "a Wav2Vec2 audio encoder"
CLIP = "a CLIP vision encoder"
UNKNOWN = "no model that LiveTalk knows"
T5_ATTENTION = "block.0.layer.0.SelfAttention"

KINDS = (
    (("audio_proj.proj1.weight", "audio_proj.proj2.weight"), LIVETALK),
    (("blocks.0.cross_attn.norm_k.weight", "blocks.0.cross_attn.norm_q.weight"), WAN),
    (("blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.k.lora_A.weight"), ADAPTER),
    (("decoder.middle.0.residual.0.gamma", "encoder.middle.0.residual.0.gamma"), WAN_VAE),
    (("latents_mean", "decoder.up_blocks.1.upsamplers.0.conv.conv.weight"), LTX_VAE),
    (("feature_extractor.conv_layers.0.conv.weight", "feature_extractor.conv_layers.1.conv.weight"), WAV2VEC2),
    (("visual.cls_embedding", "visual.pos_embedding"), CLIP),
    (("vision_model.embeddings.class_embedding", "vision_model.embeddings.position_embedding.weight"), CLIP),
    (("blocks.0.pos_embedding.embedding.weight", "blocks.1.pos_embedding.embedding.weight"), "a umT5 text encoder"),
    ((f"{T5_ATTENTION}.relative_attention_bias.weight", f"{T5_ATTENTION}.q.weight"), "a T5 text encoder"),
    (("proj1_vf.weight", "proj1_vf.bias"), AUDIO_PROJECTION),
)
"""Weights that only one kind of model has, and the kind; of several, the first.

One of them suffices: a file that lacks a weight is still called what it is.
"""
SOUNDS_OF_LITE = 2
"""A further latent frame hears 8 / 5 of what the first one hears in Pro, 12 / 5 in Lite: this lies between."""


def identify(weights: Mapping[str, Tensor]) -> str:
    """What kind of model these weights are, in words."""
    kinds = [kind for endings, kind in KINDS if any(name.endswith(endings) for name in weights)]
    if kinds[:1] != [LIVETALK]:
        return kinds[0] if kinds else UNKNOWN
    if WAN not in kinds:
        return AUDIO_PATCH
    return LIVETALK if any(part in name for name in weights for part in PROMPTED) else _flashhead(weights)


def _flashhead(weights: Mapping[str, Tensor]) -> str:
    """Pro makes tokens of 2x2 latent points, Lite of one; where that layer is missing, their sound tells."""
    if kernel := _shape(weights, "patch_embedding.weight")[2:]:
        return FLASHHEAD_LITE if prod(kernel) == 1 else FLASHHEAD_PRO
    first, further = (_shape(weights, f"audio_proj.{name}.weight")[-1:] for name in ("proj1", "proj1_vf"))
    return FLASHHEAD_LITE if first and further and further[0] > SOUNDS_OF_LITE * first[0] else FLASHHEAD_PRO


def _shape(weights: Mapping[str, Tensor], ending: str) -> tuple[int, ...]:
    """Of the weight whose name ends so; none, where there is none."""
    name = next((name for name in weights if name.endswith(ending)), None)
    if name is None:
        return ()
    return tuple((weights.placeholder(name) if isinstance(weights, Checkpoint) else weights[name]).shape)
