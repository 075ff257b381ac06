"""A model's widths, from its file's names and shapes alone.

What shapes do not tell (heads, mainly) comes from a `config` in the file's metadata or a `config.json`
beside it, else from what the published models have in common.
"""

from collections.abc import Callable, Mapping
from math import isqrt
from reprlib import repr as short
from typing import Any, TypeVar

from torch import Tensor

from ..config import (
    LTX_LEVELS,
    AudioEncoderConfig,
    ImageEncoderConfig,
    LTXVAEConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from ..errors import CheckpointError, InputError
from ..models.audio_encoder import CONV_KERNEL, CONV_STRIDE
from ..models.image_encoder import NORM_EPSILON
from ..models.ltx_vae import SHORTCUT_NORM_EPSILON
from ..shapes import LTX, WAN, Geometry
from . import keys
from .header import AGAIN, Checkpoint
from .kinds import FLASHHEAD_LITE, FLASHHEADS, LIVETALK, LTX_VAE, TRANSFORMERS, WAN_VAE, WAV2VEC2, identify

C = TypeVar("C")
WIDEST = 2**18
"""More is believed of no width: the largest published, a vocabulary, is just below."""
MOST_LAYERS = 256
"""More is believed of no model: the largest published has 40, and a name takes no byte of numbers."""
TRANSFORMER_HEAD_DIM = 128
AUDIO_HEAD_DIM = 64
IMAGE_HEAD_DIMS = {1280: 80}
"""Channels per head by width (ViT-H); 64 for all others."""

OWN_CONFIG = "use the config.json of this very model, or move a foreign one away"

AUDIO_SUPPORTED = {
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "conv_bias": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "conv_kernel": list(CONV_KERNEL),
    "conv_stride": list(CONV_STRIDE),
    "layer_norm_eps": 1e-5,
}
"""The Wav2Vec2 variant that is built: the base one, with group norm and norms after each layer."""

LTX_CLASS = "AutoencoderKLLTXVideo"
LTX_SUPPORTED = {
    "_class_name": LTX_CLASS,
    "encoder_causal": True,
    "decoder_causal": False,
    "patch_size_t": 1,
    "resnet_norm_eps": SHORTCUT_NORM_EPSILON,
    "spatio_temporal_scaling": [True, True, True, False],
}
"""The LTX VAE that is built: FlashHead Lite's, the first published one."""


class Shapes:
    """Shapes by name; a missing name is a `CheckpointError` that says what the file is instead.

    So is a shape of other than `dims` sides, or with a side that no model has.
    """

    def __init__(self, checkpoint: Checkpoint, weights: Mapping[str, Tensor], needed: str) -> None:
        self._path, self._original, self.weights, self._needed = checkpoint.path, checkpoint, weights, needed

    def __call__(self, name: str, dims: int) -> tuple[int, ...]:
        if name not in self.weights:
            raise CheckpointError(self._missing(name))
        shape = tuple(self.weights[name].shape)
        if len(shape) != dims or not all(1 <= side <= WIDEST for side in shape):
            raise CheckpointError(
                f"{self._path}: {name} is {list(shape)}; needed are {dims} sides of 1 to {WIDEST:,}: download the file "
                "again, or choose another one"
            )
        return shape

    def _missing(self, name: str) -> str:
        kind = identify(self._original)
        if kind == self._needed:
            return f"{self._path}, {kind}, lacks {name}; needed is a whole file: download it again"
        return f"{self._path} is {kind} ({name} is missing); needed is {self._needed}: choose another file"


def transformer_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> TransformerConfig:
    """Widths of the transformer, of whichever member of the family; `weights` are its header under our names."""
    kind = identify(weights)
    shape = Shapes(checkpoint, weights, kind if kind in TRANSFORMERS else LIVETALK)
    geometry = LTX if kind == FLASHHEAD_LITE else WAN
    settings = checkpoint.config(beside=True)
    dim, in_dim = shape("patch_embedding.weight", 5)[:2]
    widths = {
        "dim": dim,
        "in_dim": in_dim,
        "ffn_dim": shape("blocks.0.ffn.0.weight", 2)[0],
        "num_layers": _layers(checkpoint, weights, "blocks"),
        "out_dim": shape("head.head.weight", 2)[0] // geometry.patch**2,
        "freq_dim": shape("time_embedding.0.weight", 2)[1],
        **_audio_widths(checkpoint, shape, geometry, settings),
        **(_prompt_widths(shape) if kind not in FLASHHEADS else {}),
    }
    _check_agreement(checkpoint, settings, {**widths, **_published_geometry(geometry)})
    return _built(
        checkpoint,
        TransformerConfig,
        **widths,
        num_heads=_width(checkpoint, settings, "num_heads", max(1, dim // TRANSFORMER_HEAD_DIM)),
        text_len=_width(checkpoint, settings, "text_len", TransformerConfig.text_len),
        eps=_epsilon(checkpoint, settings),
        geometry=geometry,
        prompted=kind not in FLASHHEADS,
        repeats_portrait=settings.get("repeats_portrait") is True,
    )


def _audio_widths(
    checkpoint: Checkpoint, shape: Shapes, geometry: Geometry, settings: Mapping[str, Any]
) -> dict[str, int]:
    """A window of audio frames goes into `proj1`, and one longer by all but one frame of a stride into `proj1_vf`."""
    intermediate_dim, first_frame = shape("audio_proj.proj1.weight", 2)
    frame = max(1, (shape("audio_proj.proj1_vf.weight", 2)[1] - first_frame) // (geometry.temporal_stride - 1))
    output_dim = shape("audio_proj.norm.weight", 1)[0]
    likely = (width for width in (AudioEncoderConfig.hidden_size, output_dim) if frame % width == 0)
    audio_channels = _width(checkpoint, settings, "audio_channels", next(likely, frame))
    return {
        "intermediate_dim": intermediate_dim,
        "output_dim": output_dim,
        "context_tokens": shape("audio_proj.proj3.weight", 2)[0] // output_dim,
        "audio_window": first_frame // frame,
        "audio_blocks": frame // audio_channels,
        "audio_channels": audio_channels,
    }


def _prompt_widths(shape: Shapes) -> dict[str, int]:
    return {
        "text_dim": shape("text_embedding.0.weight", 2)[1],
        "clip_dim": shape("img_emb.proj.1.weight", 2)[1],
    }


def _published_geometry(geometry: Geometry) -> dict[str, list[int]]:
    """A geometry as FlashHead's `config.json` says it."""
    return {
        "vae_stride": [geometry.temporal_stride, geometry.spatial_stride, geometry.spatial_stride],
        "patch_size": [1, geometry.patch, geometry.patch],
    }


def vae_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> VAEConfig | LTXVAEConfig:
    """Widths of the VAE, of whichever of the two kinds it is."""
    if identify(weights) == LTX_VAE:
        return _ltx_vae_config(checkpoint, weights)
    return VAEConfig(dim=Shapes(checkpoint, weights, WAN_VAE)("decoder.head.0.gamma", 4)[0])


def _ltx_vae_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> LTXVAEConfig:
    shape = Shapes(checkpoint, weights, LTX_VAE)
    settings = checkpoint.config(beside=True)
    if settings.get("_class_name") == LTX_CLASS:  # a file that was put among others may have a foreign one beside it
        _check_variant(checkpoint, settings, LTX_SUPPORTED, "the LTX VAE", "use the one in FlashHead's VAE_LTX")
    levels = [f"encoder.down_blocks.{level}.resnets" for level in range(LTX_LEVELS)]
    return _built(
        checkpoint,
        LTXVAEConfig,
        block_out_channels=tuple(shape(f"{level}.0.conv1.conv.weight", 5)[0] for level in levels),
        layers_per_block=tuple(_layers(checkpoint, weights, stem) for stem in (*levels, "encoder.mid_block.resnets")),
        latent_channels=shape("latents_mean", 1)[0],
        patch_size=isqrt(shape("encoder.conv_in.conv.weight", 5)[1] // 3),
    )


def audio_encoder_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> AudioEncoderConfig:
    """Widths of the audio encoder; a variant that is not built is a `CheckpointError`."""
    shape = Shapes(checkpoint, weights, WAV2VEC2)
    settings = checkpoint.config(beside=True)
    extractor = "feature_extractor.conv_layers"
    normed = f"{extractor}.1.layer_norm.weight" in weights
    variant = {**settings, "conv_bias": f"{extractor}.0.conv.bias" in weights, "feat_extract_norm": _norm_kind(normed)}
    _check_variant(checkpoint, variant, AUDIO_SUPPORTED, "Wav2Vec2", "use chinese-wav2vec2-base or wav2vec2-base-960h")
    hidden_size, per_group, kernel = shape("encoder.pos_conv_embed.conv.parametrizations.weight.original1", 3)
    return _built(
        checkpoint,
        AudioEncoderConfig,
        hidden_size=hidden_size,
        num_hidden_layers=_layers(checkpoint, weights, "encoder.layers"),
        num_attention_heads=_width(checkpoint, settings, "num_attention_heads", max(1, hidden_size // AUDIO_HEAD_DIM)),
        intermediate_size=shape("encoder.layers.0.feed_forward.intermediate_dense.weight", 2)[0],
        conv_dim=tuple(shape(f"{extractor}.{index}.conv.weight", 3)[0] for index in range(len(CONV_KERNEL))),
        num_conv_pos_embeddings=kernel,
        num_conv_pos_embedding_groups=hidden_size // per_group,
    )


def _norm_kind(normed: bool) -> str:
    return "layer" if normed else "group"


def image_encoder_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> ImageEncoderConfig:
    """Widths of the vision encoder; `weights` are its header under our names, without the last layer."""
    shape = Shapes(checkpoint, weights, "a CLIP vision encoder")
    settings = checkpoint.config(beside=False)
    if settings.get("hidden_act", "gelu") != "gelu" or settings.get("layer_norm_eps", NORM_EPSILON) != NORM_EPSILON:
        raise CheckpointError(
            f"{checkpoint.path} has activation {settings.get('hidden_act')}; needed is gelu: use clip_vision_h"
        )
    dim, _, patch_size, _ = shape("patch_embedding.weight", 4)
    side = round((shape("position_embedding", 2)[0] - 1) ** 0.5)
    return _built(
        checkpoint,
        ImageEncoderConfig,
        dim=dim,
        num_layers=_layers(checkpoint, weights, "encoder.layers") + 1,
        num_heads=_width(checkpoint, settings, "num_heads", max(1, dim // IMAGE_HEAD_DIMS.get(dim, 64))),
        image_size=side * patch_size,
        patch_size=patch_size,
        mlp_ratio=shape("encoder.layers.0.mlp.fc1.weight", 2)[0] // dim,
    )


def text_encoder_config(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> TextEncoderConfig:
    """Widths of the text encoder."""
    shape = Shapes(checkpoint, weights, "a umT5 text encoder")
    attention = "block.0.layer.0.SelfAttention"
    vocab, dim = shape("shared.weight", 2)
    num_buckets, num_heads = shape(f"{attention}.relative_attention_bias.weight", 2)
    return _built(
        checkpoint,
        TextEncoderConfig,
        vocab=vocab,
        dim=dim,
        dim_attn=shape(f"{attention}.q.weight", 2)[0],
        dim_ffn=shape("block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        num_heads=num_heads,
        num_layers=_layers(checkpoint, weights, "block"),
        num_buckets=num_buckets,
    )


def _check_variant(
    checkpoint: Checkpoint, variant: Mapping[str, Any], built: Mapping[str, Any], what: str, remedy: str
) -> None:
    faults = [
        f"{name} {variant[name]} (needs {value})" for name, value in built.items() if variant.get(name, value) != value
    ]
    if faults:
        raise CheckpointError(
            f"{checkpoint.path} is another variant of {what}: {', '.join(faults)}; needed is the base one: {remedy}"
        )


def _layers(checkpoint: Checkpoint, weights: Mapping[str, Tensor], stem: str) -> int:
    """How many layers there are; names of weights without a number cost nothing, and layers do."""
    layers = keys.count(weights, stem)
    if layers > MOST_LAYERS:
        raise CheckpointError(
            f"{checkpoint.path} names {layers:,} layers; no model that is read here has over {MOST_LAYERS}: {AGAIN}"
        )
    return layers


def _check_agreement(checkpoint: Checkpoint, settings: Mapping[str, Any], widths: Mapping[str, Any]) -> None:
    faults = [
        f"{name} {settings[name]} (the weights: {value})"
        for name, value in widths.items()
        if settings.get(name, value) != value
    ]
    if faults:
        raise CheckpointError(
            f"the config of {checkpoint.path} does not fit its weights: {', '.join(faults)}; {OWN_CONFIG}"
        )


def _width(checkpoint: Checkpoint, settings: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number from the config, or what is assumed where it says none."""
    value = settings.get(name, default)
    if type(value) is not int or not 1 <= value <= WIDEST:
        raise CheckpointError(f"{_said(checkpoint, name, value)} a whole number from 1 to {WIDEST:,}: {OWN_CONFIG}")
    return value


def _epsilon(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> float:
    value = settings.get("eps", TransformerConfig.eps)
    if not isinstance(value, float) or not 0 < value < 1:
        raise CheckpointError(f"{_said(checkpoint, 'eps', value)} a number between 0 and 1: {OWN_CONFIG}")
    return value


def _said(checkpoint: Checkpoint, name: str, value: object) -> str:
    return f"the config of {checkpoint.path} has {name} {short(value)}; needed is"


def _built(checkpoint: Checkpoint, kind: Callable[..., C], **widths: Any) -> C:
    """A config of these widths; `CheckpointError` where no model has such."""
    try:
        return kind(**widths)
    except InputError as error:
        raise CheckpointError(f"no model can have the widths in {checkpoint.path}: {error}; {OWN_CONFIG}") from None
