"""LeapTalk's files as published: an adapter in PEFT's layout with its config, and the projection of sound beside it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import keys, kinds
from .adapter import Adapter
from .folder import matches
from .header import Checkpoint, conversion, json_file, open_checkpoint

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
FOLDERS = (".", "lora")
"""Where an adapter lies in the folder that was named."""
PROJECTIONS = ("audio_proj*.safetensors", "../audio_proj*.safetensors")
PICKLES = ("audio_proj*.pt", "../audio_proj*.pt")
COMFYUI = keys.PREFIXES[1]
"""What begins a name in a LoRA's file for ComfyUI."""
PLAIN = {"use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "bias": "none"}
"""What a PEFT config must say, if it says it, for W + (alpha / r) * B A to be all that the adapter does."""


class Adapted(Checkpoint):
    """A transformer's weights as an adapter changes them, each when it is asked for."""

    def __init__(self, model: Checkpoint, adapter: Adapter, added: tuple[Path, ...]) -> None:
        super().__init__(model.path, model.files)
        self.files = (*model.files, *added)
        self._adapter = adapter

    def __getitem__(self, name: str) -> Tensor:
        return self._adapter.apply(keys.transformer_name(name), super().__getitem__(name))


def is_adapter(path: Path) -> bool:
    """Whether a file, or the folder that holds it, is an adapter in PEFT's layout."""
    if path.is_dir():
        return any((path / folder / ADAPTER_FILE).exists() for folder in FOLDERS)
    return path.is_file() and kinds.identify(open_checkpoint(path)) == kinds.ADAPTER


def adapted(model: Checkpoint, path: Path) -> Adapted:
    """A FlashHead Pro with the adapter at `path`; a `CheckpointError` for another model, or an adapter not whole."""
    kind = kinds.identify(keys.transformer(model.header()))
    if kind != kinds.FLASHHEAD_PRO:
        raise CheckpointError(
            f"{model.path} is {kind}; the adapter {path} is for {kinds.FLASHHEAD_PRO}: choose that, or leave it out"
        )
    adapter, files = _read(path)
    _check_model(model, adapter)
    return Adapted(model, adapter, files)


def as_one_file(path: Path) -> dict[str, Tensor]:
    """The adapter at `path` and its projection of sound under the names that ComfyUI's LoRA loader reads."""
    adapter, _ = _read(path)
    weights: dict[str, Tensor] = {}
    for name, (down, up) in adapter.factors.items():
        layer = COMFYUI + name.removesuffix(".weight")
        parts = {"lora_A.weight": down, "lora_B.weight": up, "alpha": torch.tensor(adapter.scale * len(down))}
        weights |= {f"{layer}.{part}": tensor for part, tensor in parts.items()}
    replaced = {f"{COMFYUI}{name.removesuffix('.weight')}.set_weight": t for name, t in adapter.replaced.items()}
    return weights | replaced


def _read(path: Path) -> tuple[Adapter, tuple[Path, ...]]:
    """A published adapter, and its files."""
    lora = open_checkpoint(_file_of(path))
    projection = open_checkpoint(_projection_beside(lora.path))
    rank, alpha = _scaling(lora.path)
    return Adapter.of(lora, rank, alpha, projection), (*lora.files, *projection.files)


def _file_of(path: Path) -> Path:
    places = [path / folder / ADAPTER_FILE for folder in FOLDERS] if path.is_dir() else [path]
    return next(place for place in places if place.exists())


def _projection_beside(lora: Path) -> Path:
    """The projection that was trained with an adapter: beside it, or in the folder above."""
    for pattern in PROJECTIONS:
        if paths := matches(lora.parent, pattern):
            return paths[0]
    pickles = [pickle for pattern in PICKLES for pickle in matches(lora.parent, pattern)]
    remedy = conversion(pickles[0]) if pickles else "download LeapTalk's audio_proj, and convert it"
    raise CheckpointError(
        f"no projection of sound lies beside the adapter {lora}; needed is {' or '.join(PROJECTIONS)}: {remedy}"
    )


def _scaling(lora: Path) -> tuple[int, float]:
    """An adapter's rank and alpha, from the config beside it."""
    config = lora.with_name(CONFIG_FILE)
    settings: dict[str, Any] = json_file(config)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not (isinstance(rank, int) and rank >= 1 and isinstance(alpha, int | float)):
        raise CheckpointError(
            f"{config} says r {rank!r} and lora_alpha {alpha!r}; needed are two numbers: download it again"
        )
    foreign = [f"{name} {settings[name]}" for name, value in PLAIN.items() if settings.get(name) not in (value, None)]
    if foreign:
        raise CheckpointError(f"{config} asks for {', '.join(foreign)}, which is not read here; needed is a plain LoRA")
    return rank, float(alpha)


def _check_model(model: Checkpoint, adapter: Adapter) -> None:
    weights = keys.transformer(model.header())
    adapter.check(weights, "FlashHead Pro, which LeapTalk was made for")
    if any(weights[name].dtype in keys.FP8 for name in adapter.factors):
        raise CheckpointError(
            f"{model.path} is FP8, to which an adapter cannot be added; needed are 16 or 32 bit weights: give the "
            "original, with --fp8 if memory is short"
        )
