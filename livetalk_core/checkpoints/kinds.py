"""What a file of weights is, in words, from its names and shapes alone."""

from collections.abc import Mapping

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
UNKNOWN = "no model that LiveTalk knows"

KINDS = (
    ("audio_proj.proj1.weight", LIVETALK),
    ("blocks.0.cross_attn.norm_k.weight", WAN),
    ("blocks.0.self_attn.q.lora_A.weight", ADAPTER),
    ("decoder.middle.0.residual.0.gamma", WAN_VAE),
    ("latents_mean", LTX_VAE),
    ("decoder.up_blocks.1.upsamplers.0.conv.conv.weight", LTX_VAE),
    ("feature_extractor.conv_layers.0.conv.weight", WAV2VEC2),
    ("visual.cls_embedding", "a CLIP vision encoder"),
    ("vision_model.embeddings.class_embedding", "a CLIP vision encoder"),
    ("blocks.0.pos_embedding.embedding.weight", "a umT5 text encoder"),
    ("block.0.layer.0.SelfAttention.relative_attention_bias.weight", "a T5 text encoder"),
    ("proj1_vf.weight", AUDIO_PROJECTION),
)
"""A weight that only one kind of model has, and the kind; of several, the first."""


def identify(weights: Mapping[str, Tensor]) -> str:
    """What kind of model these weights are, in words."""
    kinds = [kind for ending, kind in KINDS if any(name.endswith(ending) for name in weights)]
    if kinds[:1] != [LIVETALK]:
        return kinds[0] if kinds else UNKNOWN
    if WAN not in kinds:
        return AUDIO_PATCH
    return LIVETALK if any(part in name for name in weights for part in PROMPTED) else _flashhead(weights)


def _flashhead(weights: Mapping[str, Tensor]) -> str:
    """Pro makes tokens of 2x2 latent points, Lite of one."""
    name = next((name for name in weights if name.endswith("patch_embedding.weight")), None)
    if name is None:
        return FLASHHEAD_PRO
    kernel = (weights.placeholder(name) if isinstance(weights, Checkpoint) else weights[name]).shape[2:]
    return FLASHHEAD_LITE if kernel.numel() == 1 else FLASHHEAD_PRO
