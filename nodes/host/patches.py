"""What stock nodes have changed of a MODEL's weights, as plain tensors: ComfyUI's objects do not cross to workers."""

from typing import Any

from comfy.weight_adapter.lora import LoRAAdapter

from ...livetalk_core.errors import InputError
from ...livetalk_core.parallel.patches import Patch
from .models import Patcher

PREFIX = "diffusion_model."


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
    whole = strength_model == 1 and offset is None and function is None
    if whole and isinstance(value, LoRAAdapter):
        up, down, alpha, mid, dora_scale, reshape = value.weights
        if mid is None and dora_scale is None and reshape is None:
            scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
            return Patch(name, float(strength) * scale, up.flatten(1), down.flatten(1))
    elif whole and isinstance(value, tuple) and (difference := _difference(value)) is not None:
        return Patch(name, float(strength), difference)
    kind = "a LoRA of another kind (DoRA?)" if isinstance(value, LoRAAdapter) else getattr(value, "name", "a merge")
    raise _unknown(key, kind)


def _difference(value: tuple[Any, ...]) -> Any:
    """The tensor of `(tensor,)` or `("diff", (tensor, options))`; None for another kind."""
    if len(value) == 1:
        return value[0]
    kind, content = value
    padded = len(content) > 1 and content[1].get("pad_weight")
    return content[0] if kind == "diff" and not padded else None


def _unknown(what: str, kind: str) -> InputError:
    return InputError(
        f"{what} is changed by {kind}, which workers cannot be given; they take LoRAs and plain differences of "
        "weights: take LiveTalk Devices or this change out"
    )
