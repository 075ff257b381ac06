"""Widths of a model's parts, and how its stream is cut and sampled: frozen dataclasses that check themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import InputError
from .shapes import LTX, WAN, Geometry

DEFAULT_PROMPT = "A person is talking. Only the foreground characters are moving, the background remains static."
"""The reference's own."""
DEFAULT_NEGATIVE_PROMPT = "blurred, overexposed, low quality, deformed face, subtitles, a still picture"
"""What guidance by text leads away from."""

AUDIO_MODES = ("window", "stream", "whole")
"""How speech is encoded: see `streaming.features`."""

LARGEST_SEED = 2**64 - 1
"""Of the noise, either way from 0."""

MOST_STEPS = 1000
"""Of sampling: so many timesteps the models know."""

SECRET_VARIABLE = "LIVETALK_SECRET"
"""Where a worker looks in the environment for its fleet's secret."""

WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


LTX_LEVELS = 4
"""Levels of the LTX VAE: all but the last halve rows, columns and frames."""


def _check_widths(config: Any, width: str, parts: str) -> None:
    """Raise `InputError` unless all numbers are at least 1 and the `width` can be cut into so many `parts`."""
    widths = {each.name: getattr(config, each.name) for each in fields(config) if each.type is int}
    faults = [f"{name} {value}" for name, value in widths.items() if value < 1]
    if faults:
        raise InputError(f"{', '.join(faults)}; at least 1 is needed")
    if widths[width] % widths[parts]:
        raise InputError(
            f"{width} {widths[width]}, {parts} {widths[parts]}; the first must be a multiple of the second"
        )


@dataclass(frozen=True)
class TransformerConfig:
    """Widths of the video transformer; names follow the published `config.json` where it has them.

    The published config leaves out `clip_dim`, `audio_blocks` (hidden states stacked per audio
    frame) and `audio_channels` (their width). `geometry` is the VAE's, with the patches made of its latents.
    Where `prompted` is off, blocks listen to the sound alone, and the widths of text and image tokens are not read.
    With `repeats_portrait`, the condition's first frame (mask and portrait) stands beside every latent frame, as in
    FlashHead, though it is handed in as Wan has it: so each token sees the portrait's own latents at its place.
    """

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    in_dim: int = 36
    out_dim: int = 16
    freq_dim: int = 256
    text_len: int = 512
    text_dim: int = 4096
    clip_dim: int = 1280
    audio_blocks: int = 12
    audio_channels: int = 768
    intermediate_dim: int = 512
    output_dim: int = 768
    context_tokens: int = 32
    audio_window: int = 5
    eps: float = 1e-6
    geometry: Geometry = WAN
    prompted: bool = True
    repeats_portrait: bool = False

    def __post_init__(self) -> None:
        _check_widths(self, "dim", "num_heads")
        if not self.prompted and self.output_dim != self.dim:
            raise InputError(f"output_dim {self.output_dim}, dim {self.dim}; a model without prompts has them equal")
        if self.head_dim % 2:
            raise InputError(f"dim {self.dim} with {self.num_heads} heads; needs an even number of channels per head")

    @classmethod
    def published(cls, config: Mapping[str, Any]) -> "TransformerConfig":
        """The widths in a published `config.json`, completed by what it leaves out; FlashHead's has its geometry."""
        names = {each.name for each in fields(cls)} - {"geometry"}
        widths = {name: value for name, value in config.items() if name in names}
        if "vae_stride" not in config:
            return cls(**widths)
        temporal, spatial = config["vae_stride"][:2]
        geometry = Geometry(temporal, spatial, config["patch_size"][-1], config["out_dim"])
        return cls(**widths, geometry=geometry, prompted=config["has_image_input"])

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """Wan 2.1's causal VAE: only the base width differs between presets."""

    dim: int = 96
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD

    @property
    def geometry(self) -> Geometry:
        """Strides and channels of the latents."""
        return WAN


@dataclass(frozen=True)
class LTXVAEConfig:
    """The LTX video VAE, named as in its published `config.json`.

    Widths go from the pixels to the latent; `layers_per_block` counts residual blocks in the same order, those of the
    middle last. The decoder has the same, reversed.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: tuple[int, ...] = (4, 3, 3, 3, 4)
    latent_channels: int = 128
    patch_size: int = 4

    def __post_init__(self) -> None:
        levels, counts = len(self.block_out_channels), len(self.layers_per_block)
        sizes = (*self.block_out_channels, *self.layers_per_block, self.latent_channels, self.patch_size)
        if levels != LTX_LEVELS or counts != LTX_LEVELS + 1 or min(sizes) < 1:
            raise InputError(
                f"an LTX VAE of widths {self.block_out_channels} with {self.layers_per_block} blocks; "
                f"needed are {LTX_LEVELS} widths and {LTX_LEVELS + 1} counts, each at least 1"
            )

    @property
    def geometry(self) -> Geometry:
        """Strides and channels of the latents."""
        return LTX._replace(latent_channels=self.latent_channels)

    @classmethod
    def published(cls, config: Mapping[str, Any]) -> "LTXVAEConfig":
        """The widths in a published `config.json`; what it lacks is as published."""
        names = [each.name for each in fields(cls) if each.name in config]
        widths: dict[str, Any] = {
            name: tuple(config[name]) if isinstance(config[name], list) else config[name] for name in names
        }
        return cls(**widths)


@dataclass(frozen=True)
class AudioEncoderConfig:
    """Wav2Vec2 widths, named as in `transformers.Wav2Vec2Config`.

    `lufs` is the loudness that its member of the family sets the sound to; None: it is left as it is.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    lufs: float | None = -23.0

    def __post_init__(self) -> None:
        _check_widths(self, "hidden_size", "num_attention_heads")
        _check_widths(self, "hidden_size", "num_conv_pos_embedding_groups")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """CLIP vision transformer (published: open-clip XLM-RoBERTa ViT-H/14)."""

    dim: int = 1280
    num_layers: int = 32
    num_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _check_widths(self, "dim", "num_heads")


@dataclass(frozen=True)
class TextEncoderConfig:
    """umT5 encoder (published: umT5-XXL)."""

    vocab: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32

    def __post_init__(self) -> None:
        _check_widths(self, "dim_attn", "num_heads")


@dataclass(frozen=True)
class CorrectionConfig:
    """Retrospection (streaming/correction.py): every `interval` chunks the last `lookback` are reviewed.

    Drift beyond `threshold` (0.1 is about a tenth of the picture's own contrast) is undone by `strength` in 0..1. It
    settles for all settings.
    """

    interval: int = 2
    lookback: int = 4
    threshold: float = 0.1
    strength: float = 0.5

    def __post_init__(self) -> None:
        if min(self.interval, self.lookback) < 1:
            raise InputError(f"interval {self.interval}, lookback {self.lookback}; both must be at least 1 chunk")
        if not (self.threshold >= 0 and 0 <= self.strength <= 1):
            raise InputError(
                f"threshold {self.threshold}, strength {self.strength}; needs at least 0, and 0 (off) to 1 (full)"
            )


@dataclass(frozen=True)
class Guidance:
    """Guidance by prompt and by sound (sampling/guidance.py), for weights that are not distilled; 1 is none.

    A step takes one evaluation of the model with none of them, two with one, three with both.
    """

    text: float = 1.0
    audio: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.text <= 100 and 0 <= self.audio <= 100):
            raise InputError(f"guidance {self.text} by text, {self.audio} by audio; needs 0 to 100 (1: none)")


@dataclass(frozen=True)
class StreamConfig:
    """How the video is cut into chunks and each chunk is sampled.

    A chunk has `frame_num` frames, of which the first `motion_frames` repeat the end of the chunk
    before. `shift` stretches the timesteps; `color_correction` in 0..1 pulls every frame's Lab
    mean and deviation towards the reference image. `correction` is off where it is None. `joins`:
    whether a chunk's first frames are joined to the last one shown; None: where there is correction. `guidance`
    is for weights that are not distilled: they go along the flow by Euler's steps, from the first
    noise alone; where it is None, every step takes fresh noise, as the distilled weights do.
    `revisions`: so often the latents that a chunk hands on are decoded and encoded once more, and what
    that changes is taken off them beforehand. For a VAE that loses something on every such way.

    What the weights were made for: with `bridge`, chunks go from the portrait's latents, not from noise (LeapTalk);
    with `holds_portrait`, the condition is the portrait repeated, not the portrait and a mask; with `draws_latents`,
    what is encoded is a draw from the VAE's distribution, not its mean.
    """

    height: int = 768
    width: int = 448
    frame_num: int = 33
    motion_frames: int = 5
    steps: int = 4
    shift: float = 5.0
    color_correction: float = 1.0
    correction: CorrectionConfig | None = None
    guidance: Guidance | None = None
    bridge: bool = False
    holds_portrait: bool = False
    draws_latents: bool = False
    geometry: Geometry = WAN
    revisions: int = 0
    joins: bool | None = None

    def __post_init__(self) -> None:
        self.geometry.check_size(self.height, self.width)
        self.geometry.latent_frames(self.frame_num)
        self.geometry.latent_frames(self.motion_frames)
        if self.motion_frames >= self.frame_num:
            raise InputError(f"{self.motion_frames} motion frames; a chunk of {self.frame_num} needs fewer")
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError(
                f"{self.steps} sampling steps; 1 to {MOST_STEPS} are possible (the model is distilled for 4)"
            )
        if self.revisions < 0 or (self.revisions and self.draws_latents):
            raise InputError(
                f"{self.revisions} revisions of the latents handed on; needs 0 (none) or more, and 0 where latents are "
                "drawn"
            )
        if not 0 <= self.color_correction <= 1:
            raise InputError(f"color correction {self.color_correction}; needs 0 (off) to 1 (full)")

    @property
    def joined(self) -> bool:
        """Whether chunks are joined."""
        return self.correction is not None if self.joins is None else self.joins

    @property
    def new_frames(self) -> int:
        """Frames that each chunk after the first adds to the video."""
        return self.frame_num - self.motion_frames


INFINITETALK = StreamConfig(frame_num=81, motion_frames=9, steps=40, shift=7.0, guidance=Guidance(5.0, 4.0))
"""What InfiniteTalk's weights were made for (its own settings for 480p)."""
