"""What a MODEL, VAE or CLIP_VISION is, across restarts: by its weights and by what other nodes have changed of it."""

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from comfy.weight_adapter.base import WeightAdapterBase
from comfy.weight_adapter.bypass import BypassInjectionManager
from torch import Tensor

from .changes import replaced_layers, wrappers_around
from .models import KEY, Patcher, shift_of

SAMPLE_VALUES = 1024
"""Training changes every tensor all over: its beginning tells it from another."""


def model_identity(model: Patcher) -> str:
    """Names a MODEL across restarts: what it is, what LoRAs and stock nodes have changed, and where it computes.

    LoRAs count with their tensors, strengths and order, bypassed ones too; so do the attention that was chosen, layers
    put in the place of others, and what is wrapped around the model.
    """
    override = model.model_options["transformer_options"].get("optimized_attention_override")
    changes = [sorted(model.patches.items()), sorted(model.injections.items()), override]
    changes += [part for part in (replaced_layers(model), wrappers_around(model)) if part]
    changed = _digest(changes) if any(changes) else "none"
    shift = shift_of(model)
    where = f"{model.load_device.type}, {model.model.get_dtype_inference()}"
    return f"{model.get_attachment(KEY)}, shift {shift}, patches {changed}, on {where}"


def weights_identity(part: Any) -> str:
    """Tells a VAE or CLIP_VISION from others: its weights' names, shapes, and the beginning of each."""
    beginnings = {key: (tuple(w.shape), w.flatten()[:SAMPLE_VALUES]) for key, w in part.get_sd().items()}
    return _digest(sorted(beginnings.items()))


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes that tell a value from others: tensors by their values, functions by their code's name and what they
    hold, all else by its text."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return
    held = _held(value)
    if held is None:
        yield repr(value).encode()
        return
    yield f"{type(value).__name__} {getattr(value, '__qualname__', '')} {len(held)}".encode()
    for part in held:
        yield from _parts(part)


def _held(value: Any) -> list[Any] | None:
    """What a value is made of; None for one that is its own text."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, WeightAdapterBase):
        return [value.weights]
    if hasattr(value, "inject"):  # ComfyUI's PatcherInjection
        return [value.inject]
    if isinstance(value, BypassInjectionManager):  # of LoRAs that run beside their layers
        return sorted(value.adapters.items())
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *sorted(value.keywords.items())]
    if callable(value):
        return [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    if value is None or isinstance(value, (bool, int, float, str)):
        return None
    return []
