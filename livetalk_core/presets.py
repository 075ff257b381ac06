"""Presets: everything that makes one model, as a frozen dataclass that is checked where it is built."""

from dataclasses import dataclass, field, replace

from .config import (
    AudioEncoderConfig,
    ImageEncoderConfig,
    LTXVAEConfig,
    StreamConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from .errors import InputError
from .shapes import LTX, Geometry


@dataclass(frozen=True)
class Preset:
    """Everything that makes one model: its parts' widths and the stream they were made for.

    A model that reads no prompt has neither vision nor text encoder.
    """

    name: str
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vae: VAEConfig | LTXVAEConfig = field(default_factory=VAEConfig)
    audio: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    image: ImageEncoderConfig | None = field(default_factory=ImageEncoderConfig)
    text: TextEncoderConfig | None = field(default_factory=TextEncoderConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        geometries = {self.transformer.geometry, self.vae.geometry, self.stream.geometry}
        if len(geometries) > 1:
            raise InputError(f"parts of {self.name} for different latents ({geometries}); all must have one geometry")
        if {self.image is not None, self.text is not None} != {self.transformer.prompted}:
            raise InputError(f"{self.name} needs text and vision encoder if it reads a prompt, and else none of them")

    @property
    def image_tokens(self) -> int:
        """How many the vision encoder makes of a picture; 0 where there is none."""
        return 0 if self.image is None else 1 + (self.image.image_size // self.image.patch_size) ** 2

    @property
    def geometry(self) -> Geometry:
        """How its video, latents and tokens relate."""
        return self.transformer.geometry

    def sized(self, size: tuple[int, int] | None) -> "Preset":
        """The same with a stream of `size`, (height, width) in pixels, if one is given."""
        return self if size is None else replace(self, stream=replace(self.stream, height=size[0], width=size[1]))


_FLASHHEAD = Preset(
    "flashhead-pro",
    transformer=TransformerConfig(
        dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_dim=32, output_dim=1536, prompted=False
    ),
    audio=AudioEncoderConfig(lufs=None),
    image=None,
    text=None,
    stream=StreamConfig(height=512, width=512, holds_portrait=True),
)
_LITE = replace(
    _FLASHHEAD,
    name="flashhead-lite",
    transformer=replace(_FLASHHEAD.transformer, in_dim=256, out_dim=128, geometry=LTX),
    vae=LTXVAEConfig(),
    stream=replace(_FLASHHEAD.stream, motion_frames=9, draws_latents=True, geometry=LTX),
)
_SMALL_HEAD = {"dim": 768, "output_dim": 768, "ffn_dim": 2048, "num_heads": 6, "num_layers": 8}

PRESETS = {
    "14b": Preset("14b"),
    "flashhead-pro": _FLASHHEAD,
    "flashhead-lite": _LITE,
    # An adapter on FlashHead Pro.
    "leaptalk": replace(
        _FLASHHEAD, name="leaptalk", stream=replace(_FLASHHEAD.stream, steps=1, bridge=True)
    ),
    # Of the builds of 14B, Pro and Lite, for measurements on CPUs; there are no weights of them.
    "small": Preset(
        "small",
        transformer=TransformerConfig(dim=1024, ffn_dim=2752, num_heads=8, num_layers=16),
        vae=VAEConfig(dim=32),
        stream=StreamConfig(height=256, width=448),
    ),
    "small-pro": replace(
        _FLASHHEAD,
        name="small-pro",
        transformer=replace(_FLASHHEAD.transformer, **_SMALL_HEAD),
        vae=VAEConfig(dim=32),
        stream=replace(_FLASHHEAD.stream, height=256, width=256),
    ),
    "small-lite": replace(
        _LITE,
        name="small-lite",
        transformer=replace(_LITE.transformer, **_SMALL_HEAD),
        vae=LTXVAEConfig((32, 64, 128, 128)),
    ),
    "nano": Preset(
        "nano",
        transformer=TransformerConfig(
            dim=192, ffn_dim=512, num_heads=6, num_layers=6, freq_dim=64, text_len=32, text_dim=32, clip_dim=64,
            audio_blocks=4, audio_channels=64, intermediate_dim=64, output_dim=64, context_tokens=8,
            repeats_portrait=True,
        ),
        vae=VAEConfig(dim=8),
        audio=AudioEncoderConfig(
            hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128,
            conv_dim=(32, 32, 32, 32, 32, 32, 32), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        ),
        image=ImageEncoderConfig(dim=64, num_layers=3, num_heads=4, image_size=112),
        text=TextEncoderConfig(vocab=259, dim=32, dim_attn=32, dim_ffn=64, num_heads=4, num_layers=2),
        stream=StreamConfig(height=128, width=128),
    ),
}  # fmt: skip


def member_of(config: TransformerConfig, adapted: bool = False) -> Preset:
    """The family's member that a transformer of these widths is; `adapted`: with LeapTalk's adapter on it."""
    if config.prompted:
        return PRESETS["14b"]
    if config.geometry == LTX:
        return PRESETS["flashhead-lite"]
    return PRESETS["leaptalk" if adapted else "flashhead-pro"]


def revisions_of(config: TransformerConfig) -> int:
    """How often the stream of a transformer of these widths revises what a chunk hands on: its preset's number."""
    return next((preset.stream.revisions for preset in PRESETS.values() if preset.transformer == config), 0)
