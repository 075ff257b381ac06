"""What other nodes have changed of a MODEL that LiveTalk's sampling does not use, so that nobody waits for it.

Used are: weights (LoRAs, bypassed ones too), layers put in the place of others, wrappers around `apply_model`
(compiling), the chosen attention, and the shift of the noise schedule. Found by where a change sits in the MODEL, not
by the node that made it.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from comfy.patcher_extension import WrappersMP

from .models import KEY, Patcher

USED_OPTIONS = {"transformer_options", "torch_compile_kwargs", "disable_cfg1_optimization"}
"""Of `model_options`: the compiler's settings sit beside its wrapper, the last alone changes nothing."""
USED_TRANSFORMER_OPTIONS = {"optimized_attention_override", "wrappers", "callbacks"}
LAYERS = "diffusion_model"
PATCH_TABLES = {"patches", "patches_replace"}


def unused_changes(model: Patcher) -> list[str]:
    """What was changed without effect, as the changes call themselves: `easycache`, `attn1 output patch` ..."""
    names = {*_options(model), *_wrappers(model), *_objects(model)}
    return sorted(name.replace("_", " ") for name in names)


def replaced_layers(model: Patcher) -> list[tuple[str, Any]]:
    """What stands in the place of layers of the model, by name."""
    return sorted((name, value) for name, value in model.object_patches.items() if name.startswith(LAYERS))


def wrappers_around(model: Patcher) -> list[tuple[str, Any]]:
    """What is called around each evaluation of the model, in its order, under the names of who asked for it."""
    return [
        (str(key), wrapper)
        for kind, wrappers in _all_wrappers(model)
        if kind == WrappersMP.APPLY_MODEL
        for key, found in wrappers.items()
        for wrapper in found
    ]


def _all_wrappers(model: Patcher) -> Iterator[tuple[str, Any]]:
    """Those of the MODEL and those in its options: kind, and wrappers by key."""
    return chain(model.wrappers.items(), model.model_options["transformer_options"].get("wrappers", {}).items())


def _options(model: Patcher) -> Iterator[str]:
    options = model.model_options
    yield from (name for name, value in options.items() if value and name not in USED_OPTIONS)
    inner = options["transformer_options"]
    yield from (name for name in inner if name not in USED_TRANSFORMER_OPTIONS | PATCH_TABLES)
    for table in PATCH_TABLES:
        yield from (name for name, patches in inner.get(table, {}).items() if patches)


def _wrappers(model: Patcher) -> Iterator[str]:
    for kind, wrappers in _all_wrappers(model):
        if kind != WrappersMP.APPLY_MODEL:
            yield from (key or kind for key, wrapper in wrappers.items() if wrapper and key != KEY)


def _objects(model: Patcher) -> Iterator[str]:
    for name, value in model.object_patches.items():
        if name == "model_sampling":
            yield from ["noise_scale"] * (getattr(value, "noise_scale", 1.0) != 1.0)
        elif not name.startswith(LAYERS):
            yield name
