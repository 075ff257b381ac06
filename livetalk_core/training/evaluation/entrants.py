"""Which model to measure and how to sample it, as it is written on the command line."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...checkpoints.header import check
from ...checkpoints.load import open_model
from ...checkpoints.lora import add_lora
from ...checkpoints.model import Model
from ...config import CorrectionConfig, Guidance, StreamConfig
from ...errors import InputError
from ...hardware.placement import Placement, layers_of, place
from ...models.transformer import Transformer
from ...streaming.avatar import Avatar
from ...streaming.engine import Codec, Engine, LocalEngine, OnStep
from ..chance import generator_of
from .performers import DrawnPerformer, ModelPerformer, Performer

DRAWN = "drawn"
"""In place of a model: the generator's own frames through the VAE of `nano`."""
MOST_DISTURBANCE = 100.0
"""Latents have a deviation of about 1."""
SETTINGS: dict[str, Callable[[str], Any]] = {
    "transformer": Path, "vae": Path, "steps": int, "guidance": float, "color": float, "correction": float,
    "disturbance": float, "fp8": int, "revisions": int, "repeats_portrait": int, "lora": Path,
    "strength": float,
}  # fmt: skip


@dataclass(frozen=True)
class Entrant:
    """`nano`, a folder of weights, or `drawn`; None stands for the model's own value.

    transformer, vae: a file of weights (a training checkpoint's) in place of the model's. steps: of sampling.
    guidance: sample as a teacher, along the flow, guided by so much by the sound (1: not guided); without it as a
    student.
    color: strength of the colour step. correction: strength of retrospective correction, 0: off.
    disturbance: deviation of noise added to each chunk's latent. fp8: 1 for the blocks' linear layers in FP8.
    revisions: of the latents that a chunk hands on. repeats_portrait: 1 for a transformer trained with it, 0
    for one trained without. lora: a file of one. strength: of that
    (1: as it was trained).
    """

    model: str = "nano"
    transformer: Path | None = None
    vae: Path | None = None
    steps: int | None = None
    guidance: float | None = None
    color: float | None = None
    correction: float = 0.0
    disturbance: float = 0.0
    fp8: int = 0
    revisions: int | None = None
    repeats_portrait: int | None = None
    lora: Path | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        self._stream(StreamConfig())
        if not 0 <= self.disturbance <= MOST_DISTURBANCE:
            raise InputError(f"disturbance {self.disturbance}; needs 0 (none) to {MOST_DISTURBANCE:g}")
        if not math.isfinite(self.strength):
            raise InputError(f"strength {self.strength} of a LoRA; a number is needed, such as 1 (as it was trained)")
        for name in ("fp8", "repeats_portrait"):
            if getattr(self, name) not in (0, 1, None):
                raise InputError(f"{name} {getattr(self, name)}; needs 0 (no) or 1 (yes)")

    @classmethod
    def parse(cls, text: str) -> "Entrant":
        """`MODEL[,SETTING=VALUE...]`, such as `nano,steps=50,guidance=2`."""
        model, *parts = text.split(",")
        settings: dict[str, Any] = {}
        for part in parts:
            name, _, value = part.partition("=")
            try:
                settings[name] = SETTINGS[name](value)
            except (KeyError, ValueError):
                forms = ", ".join(f"{key}={kind.__name__.lower()}" for key, kind in SETTINGS.items())
                raise InputError(f"{part!r} in {text!r} is no setting; write MODEL[,{forms}]") from None
        return cls(model or "nano", **settings)

    def __str__(self) -> str:
        default = asdict(Entrant())
        settings = [
            f"{name}={value}" for name, value in asdict(self).items() if value != default[name] and name != "model"
        ]
        return ",".join([self.model, *settings])

    def open(self, device: torch.device, dtype: torch.dtype) -> Performer:
        """Load the model and make what computes its chunks."""
        model = self._model(device, dtype)
        stream = self.stream(model)
        if self.model == DRAWN:
            return DrawnPerformer(model.load_vae(), stream)
        transformer = place(model.transformer, device, bool(self.fp8))
        if self.repeats_portrait is not None:
            transformer.config = replace(transformer.config, repeats_portrait=bool(self.repeats_portrait))
        engine = LocalEngine(transformer, model.vae, device, stream.shift, guidance=stream.guidance)
        return ModelPerformer(model, Disturbed(engine, self.disturbance) if self.disturbance else engine, stream)

    def codec(self) -> tuple[Codec, StreamConfig]:
        """The VAE alone, and the stream that it is used in."""
        model = self._model(torch.device("cpu"), torch.float32)
        return model.vae, self.stream(model)

    def check(self) -> None:
        """Raise an error for a model that is not whole, or whose stream cannot be so: no weights are read."""
        self.stream(self._model(torch.device("cpu"), torch.float32))

    def stream(self, model: Model) -> StreamConfig:
        """How the model's stream is made."""
        return self._stream(model.preset.stream)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that take the place of the model's parts, or change them."""
        return tuple(filter(None, (self.transformer, self.vae, self.lora)))

    def _stream(self, default: StreamConfig) -> StreamConfig:
        return replace(
            default,
            revisions=default.revisions if self.revisions is None else self.revisions,
            steps=default.steps if self.steps is None else self.steps,
            color_correction=default.color_correction if self.color is None else self.color,
            correction=CorrectionConfig(strength=self.correction) if self.correction else None,
            guidance=None if self.guidance is None else Guidance(audio=self.guidance),
        )

    def _model(self, device: torch.device, dtype: torch.dtype) -> Model:
        placement = Placement(fp8=bool(self.fp8))
        model = open_model(
            "nano" if self.model == DRAWN else self.model, device, dtype, operations=layers_of(placement, device)
        )
        if self.transformer is not None:
            model = replace(model, load_transformer=_other(self.transformer, model.load_transformer))
        if self.lora is not None:
            model = replace(model, load_transformer=_with_lora(self.lora, self.strength, model.load_transformer))
        if self.vae is not None:
            model = replace(model, load_vae=_other(self.vae, model.load_vae))
        return model


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"weights {path} cannot be read ({error}); a safetensors file of the part's own keys is needed"
        ) from None


def _other(path: Path, load: Callable[[], Any]) -> Callable[[], Any]:
    """Builds a part as `load` does, then gives it the weights of `path`."""

    def loaded() -> nn.Module:
        if not path.is_file():
            raise InputError(f"weights {path} do not exist; a safetensors file of the part's own keys is needed")
        part, weights = load(), _weights(path)
        check(part.state_dict(), weights, str(path))
        part.load_state_dict(weights)
        return part

    return loaded


def _with_lora(path: Path, strength: float, load: Callable[[], Transformer]) -> Callable[[], Transformer]:
    """Builds a transformer as `load` does, then changes it by the LoRA at `path`."""

    def loaded() -> Transformer:
        transformer = load()
        add_lora(transformer, path, strength)
        return transformer

    return loaded


class Disturbed:
    """An engine that makes a stated mistake: noise of deviation `sigma` on each chunk's latent, decided by its seed."""

    def __init__(self, engine: Engine, sigma: float) -> None:
        self.engine, self.sigma = engine, sigma
        self.decode, self.encode = engine.decode, engine.encode

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        latent = self.engine.denoise(avatar, audio, motion, noise, on_step)
        chance = generator_of("disturbance", str(float(noise.flatten()[0])))
        return latent + self.sigma * torch.randn(latent.shape, generator=chance).to(latent)
