"""From a model's name and a portrait to what can talk: for every command that renders."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoints.model import Model
from ..config import DEFAULT_NEGATIVE_PROMPT, CorrectionConfig, Guidance, StreamConfig
from ..errors import InputError
from ..hardware.fit import explained
from ..hardware.kernels import Shape, choose_attention
from ..hardware.placement import Placement, open_placed
from ..parallel.fleet import Fleet
from ..parallel.patches import patch_weights
from ..streaming.avatar import Avatar, prepare_avatar
from ..streaming.engine import Engine, LocalEngine
from ..streaming.fleet_engine import NO_PATCHES, FleetEngine, Patches
from .loras import Lora, check_loras

Stage = Callable[[str], AbstractContextManager[Callable[[float], None]]]
"""Entered with the name of what takes a while, left when it is over: a command shows it (`progress.show_stage`).

It gives what may be told the share that is done, 0 to 1.
"""


def unseen(_: str) -> AbstractContextManager[Callable[[float], None]]:
    """The `Stage` of a caller that does not watch."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """A model, where it runs and how its stream is sampled; None stands for the model's own value."""

    model: str = "nano"
    patch: Path | None = None
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    size: tuple[int, int] | None = None
    steps: int | None = None
    color_correction: float | None = None
    correction: CorrectionConfig | None = None
    joins: bool | None = None
    loras: tuple[Lora, ...] = ()
    """Changes of the transformer's weights, one after the other."""
    guidance: Guidance | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    attention: str = "auto"
    compiled: bool = False
    placement: Placement = field(default_factory=Placement)
    fleet: Fleet | None = None
    """Workers that run transformer and VAE in the place of `device`, which keeps the encoders."""


@dataclass(frozen=True, eq=False)
class Talker:
    """A loaded model with a face: `prompts` are the tokens of the further prompts, in the order they were given."""

    model: Model
    stream: StreamConfig
    engine: Engine
    avatar: Avatar
    prompts: list[Tensor]


def open_model(settings: ModelSettings) -> tuple[Model, StreamConfig]:
    """The model, its files' headers and LoRAs checked, none of its weights read yet; its stream with the settings."""
    _check_speed_options(settings)
    placement = settings.placement if settings.fleet is None else replace(settings.placement, memory=None)
    model = open_placed(
        settings.model, settings.device, settings.dtype, placement, settings.size, settings.patch,
        resident=settings.compiled and settings.fleet is None,
    )  # fmt: skip
    check_loras(settings.loras, model.preset)
    return model, stream_of(model.preset.stream, settings)


def load_talker(
    settings: ModelSettings,
    model: Model,
    stream: StreamConfig,
    reference: Tensor,
    prompts: Sequence[str],
    stage: Stage = unseen,
) -> Talker:
    """Load the model's parts, one after the other, and make the avatar of `reference`, [1,3,1,H,W] in -1..1.

    The first of `prompts` holds from the beginning. The encoders are freed before the transformer is loaded. Raises
    `DeviceMemoryError` where the device has not enough.
    """
    with explained(replace(model.preset, stream=stream), settings.dtype, settings.device):
        return _load_talker(settings, model, stream, reference, prompts, stage)


def _load_talker(
    settings: ModelSettings, model: Model, stream: StreamConfig, reference: Tensor, prompts: Sequence[str], stage: Stage
) -> Talker:
    by_text = stream.guidance is not None and stream.guidance.text != 1
    tokens = _read(settings, model, by_text, reference, prompts, stage)
    with stage("audio encoder"):
        assert model.audio_encoder
    with stage("workers" if settings.fleet else "transformer and VAE"):
        engine = engine_of(settings, model, stream, tokens.negative)
        avatar = prepare_avatar(reference, tokens.clip, next(iter(tokens.texts), None), engine.encode, stream)
    return Talker(model, stream, engine, avatar, tokens.texts[1:])


class Tokens(NamedTuple):
    """What a model reads beside the sound: tokens of prompts, of the portrait, and of the negative prompt."""

    texts: list[Tensor]
    clip: Tensor | None
    negative: Tensor | None


def _read(
    settings: ModelSettings, model: Model, by_text: bool, reference: Tensor, prompts: Sequence[str], stage: Stage
) -> Tokens:
    """Tokens of prompts and portrait, and of the negative prompt where it guides; none for a model that reads none."""
    if not model.preset.transformer.prompted:
        if len(prompts) > 1 or by_text:
            raise InputError(f"{model} reads no prompt; leave further prompts and guidance by text out")
        return Tokens([], None, None)
    with stage("text encoder"):
        texts = model.encode_texts(*prompts, *[settings.negative_prompt] * by_text)
    with stage("vision encoder"):
        clip = model.encode_image(reference)
    return Tokens(texts[: len(prompts)], clip, texts[-1] if by_text else None)


def engine_of(settings: ModelSettings, model: Model, stream: StreamConfig, negative: Tensor | None) -> Engine:
    """The engine: workers where there are some, else this process. `negative`: tokens of the negative prompt."""
    changes = [patch for lora in settings.loras for patch in lora.patches()]
    if settings.fleet is not None:
        settings.fleet.set_up(size=[stream.height, stream.width])
        patches = Patches(tuple(lora.identity for lora in settings.loras), changes) if changes else NO_PATCHES
        return FleetEngine(
            settings.fleet, stream.shift, patches=patches, guidance=stream.guidance, negative=negative,
            bridge=stream.bridge,
        )  # fmt: skip
    preset = replace(model.preset, stream=stream)
    attention = choose_attention(settings.attention, Shape.of(preset, settings.device, settings.dtype))
    patch_weights(model.transformer, changes, settings.device, settings.dtype)
    return LocalEngine(
        model.transformer, model.vae, settings.device, stream.shift, attention, settings.compiled,
        stream.guidance, negative, stream.bridge,
    )  # fmt: skip


def stream_of(default: StreamConfig, settings: ModelSettings) -> StreamConfig:
    """The model's stream with the settings that were given."""
    height, width = settings.size or (default.height, default.width)
    names = ("steps", "color_correction", "correction", "guidance", "joins")
    changes = {name: value for name in names if (value := getattr(settings, name)) is not None}
    return replace(default, height=height, width=width, **changes)


def _check_speed_options(settings: ModelSettings) -> None:
    """Raise `InputError` for options that do not go together."""
    if settings.compiled and settings.placement.memory is not None:
        raise InputError("--compile makes one graph of a step, and --memory streams weights into it: leave one out")
