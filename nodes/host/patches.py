"""What stock nodes have changed of a MODEL's weights: whether it fits, and as plain tensors.

ComfyUI's objects do not cross to workers.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from comfy.weight_adapter.bypass import BypassInjectionManager
from comfy.weight_adapter.loha import LoHaAdapter
from comfy.weight_adapter.lokr import LoKrAdapter
from comfy.weight_adapter.lora import LoRAAdapter

from ...livetalk_core.checkpoints.adapter import AUDIO_PROJECTION
from ...livetalk_core.errors import InputError
from ...livetalk_core.parallel.patches import Patch
from .models import Patcher

PREFIX = "diffusion_model."
SET = "set"
"""ComfyUI's word for a weight that takes another's place."""


def check_loras(model: Patcher) -> bool:
    """Whether a LoRA brings a projection of sound, as LeapTalk's does.

    Raises `InputError` where a LoRA has layers of other sizes than the MODEL, which ComfyUI would pass over.
    """
    shapes = {name: parameter.shape for name, parameter in model.model.named_parameters()}
    for key, value in _changes_of_whole_weights(model):
        sizes = _sizes(value)
        if sizes is not None and key in shapes and sizes != tuple(shapes[key]):
            raise InputError(
                f"a LoRA changes {key.removeprefix(PREFIX)}, {list(shapes[key])}, by {list(sizes)}: it was made "
                "for another model (LeapTalk's for FlashHead Pro): take it out, or load that model"
            )
    sound = PREFIX + AUDIO_PROJECTION
    return any(
        key.startswith(sound) and _is_set(value) for key, changes in model.patches.items() for _, value, *_ in changes
    )


def _changes_of_whole_weights(model: Patcher) -> Iterator[tuple[str, Any]]:
    """Key and change, of LoRAs that are added to weights and of those that run beside them."""
    for key, changes in model.patches.items():
        yield from ((key, value) for _, value, _, offset, _ in changes if offset is None)
    for injection in chain.from_iterable(model.injections.values()):
        held = (cell.cell_contents for cell in getattr(injection.inject, "__closure__", None) or ())
        for manager in (part for part in held if isinstance(part, BypassInjectionManager)):
            yield from ((f"{layer}.weight", adapter) for layer, (adapter, _) in manager.adapters.items())


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The sizes of the weight that a change is for, where it says them and reshapes nothing."""
    if isinstance(value, list):  # another model's weight, and how it is read
        return tuple(value[0][0].shape)
    if isinstance(value, tuple):
        whole = value[1][0] if _is_set(value) else _difference(value)
        return None if whole is None else tuple(whole.shape)
    if isinstance(value, LoRAAdapter):
        up, down, _, mid, _, reshape = value.weights
        return _product(up, down) if mid is None and reshape is None else None
    if isinstance(value, LoHaAdapter):
        up, down = value.weights[:2]
        return _product(up, down) if value.weights[5] is None else None
    if isinstance(value, LoKrAdapter):
        first, second, _, *factors, tucker, _ = value.weights
        outer = _product(*factors[:2]) if first is None else tuple(first.shape)
        inner = _product(*factors[2:]) if second is None else tuple(second.shape)
        if tucker is None and outer and inner and len(outer) == len(inner) == 2:
            return outer[0] * inner[0], outer[1] * inner[1]
    return None


def _product(up: Any, down: Any) -> tuple[int, ...] | None:
    """The sizes of the product of two matrices; None for what is none."""
    return (up.shape[0], down.shape[1]) if up.ndim == down.ndim == 2 else None


def _is_set(value: Any) -> bool:
    return isinstance(value, tuple) and value[0] == SET


def plain_patches(model: Patcher) -> list[Patch]:
    """LoRAs and differences on a MODEL, in the order in which they apply.

    Raises `InputError` for a change of any other kind: DoRA, LoHa, a merge of models, a LoRA beside its weights.
    """
    if model.injections:
        raise _unknown("this MODEL", f"an injection ({next(iter(model.injections))}: a bypassed LoRA?)")
    return [_plain(key, *change) for key, changes in model.patches.items() for change in changes]


def _plain(key: str, strength: float, value: Any, strength_model: float, offset: Any, function: Any) -> Patch:
    """See comfy.lora.calculate_weight, which says what the parts mean."""
    name = key.removeprefix(PREFIX)
    unmodified = strength_model == 1 and offset is None and function is None
    if unmodified and isinstance(value, LoRAAdapter):
        up, down, alpha, mid, dora_scale, reshape = value.weights
        if mid is None and dora_scale is None and reshape is None:
            scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
            return Patch(name, float(strength) * scale, up.flatten(1), down.flatten(1))
    elif unmodified and _is_set(value):
        return Patch(name, 1.0, value[1][0], replaces=True)
    elif unmodified and isinstance(value, tuple) and (difference := _difference(value)) is not None:
        return Patch(name, float(strength), difference)
    kind = "a LoRA of another kind (DoRA?)" if isinstance(value, LoRAAdapter) else getattr(value, "name", "a merge")
    raise _unknown(key, kind)


def _difference(value: tuple[Any, ...]) -> Any:
    """The tensor of `(tensor,)` or `("diff", (tensor, options))`; None for another kind."""
    if len(value) == 1:
        return value[0]
    kind, content = value
    if kind != "diff":
        return None
    padded = len(content) > 1 and content[1].get("pad_weight")
    return None if padded else content[0]


def _unknown(what: str, kind: str) -> InputError:
    return InputError(
        f"{what} is changed by {kind}, which workers cannot be given; they take LoRAs and plain differences of "
        "weights: take LiveTalk Devices or this change out"
    )
