"""Changes of a built model's weights, LoRAs above all: put on from outside, and taken off again without a trace.

What is added to a linear layer's weight is computed beside the layer, as two thin products. So it fits a weight that
is split over ranks, in FP8, or mapped from a file that other processes read, too; and no copy of the weight as it was
is needed. Any other parameter (a bias, a norm, a convolution) is small, and is exchanged for the changed one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.fp8 import Quantized


class Patch(NamedTuple):
    """Adds `scale * up @ down` to the parameter `name`, or `scale * up` where there is no `down`.

    With a `down`, further dimensions of the parameter are flattened: `up` [rows, rank], `down` [rank, values per row].
    Where it `replaces`, `up` takes the parameter's place.
    """

    name: str
    scale: float
    up: Tensor
    down: Tensor | None = None
    replaces: bool = False

    def fits(self, shape: torch.Size) -> bool:
        """Whether it can be added to a parameter of this shape."""
        if self.down is None:
            return self.up.shape == shape
        inner = self.down.shape[0]
        return self.up.shape == (*shape[:1], inner) and self.down.shape == (inner, shape[1:].numel())


def patches_message(patches: Sequence[Patch]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Patches as a message's fields and tensors; `patches_of` reads them."""
    fields = {"patches": [[patch.name, patch.scale, patch.replaces] for patch in patches]}
    parts = {f"{index}.up": patch.up for index, patch in enumerate(patches)}
    downs = {f"{index}.down": patch.down for index, patch in enumerate(patches) if patch.down is not None}
    return fields, parts | downs


def patches_of(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Patch]:
    """The patches of a message."""
    return [
        Patch(name, scale, tensors[f"{index}.up"], tensors.get(f"{index}.down"), replaces)
        for index, (name, scale, replaces) in enumerate(fields["patches"])
    ]


def patch_weights(
    model: nn.Module, patches: Sequence[Patch], device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """Put all patches on a model whose layers are called (not their functions); what is returned takes them off.

    `dtype` is that of a linear layer's thin factors. Raises `InputError`, with nothing changed, where one does not fit.
    """
    modules = dict(model.named_modules())
    places = [_place(modules, patch) for patch in patches]
    undo = [_put(*place, patch, device, dtype) for place, patch in zip(places, patches, strict=True)]

    def take_off() -> None:
        for each in reversed(undo):
            each()

    return take_off


def _place(modules: Mapping[str, nn.Module], patch: Patch) -> tuple[nn.Module, str]:
    """The module that has the parameter, and its name there."""
    path, _, leaf = patch.name.rpartition(".")
    module = modules.get(path)
    if module is None or (leaf not in module._parameters and not _is_linear(module, leaf)):
        raise InputError(f"a LoRA changes {patch.name}, which this model does not have: use one made for this model")
    if not patch.fits(shape := _shape(module, leaf)):
        sizes = " by ".join(str(list(part.shape)) for part in (patch.up, patch.down) if part is not None)
        raise InputError(
            f"a LoRA changes {patch.name}, {list(shape)}, by {sizes}, which does not fit: use one made for this model"
        )
    return module, leaf


def _is_linear(module: nn.Module, leaf: str) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer's weight; one that is split over ranks is there only while its layer runs."""
    return isinstance(module, nn.Linear) and leaf == "weight"


def _shape(module: nn.Module, leaf: str) -> torch.Size:
    if _is_linear(module, leaf):
        return torch.Size((module.out_features, module.in_features))
    parameter = module._parameters[leaf]
    return torch.Size() if parameter is None else parameter.shape


def _put(module: nn.Module, leaf: str, patch: Patch, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    if _is_linear(module, leaf):
        hook = _instead if patch.replaces else _beside
        return module.register_forward_hook(hook(patch, device, dtype)).remove
    own = module._parameters[leaf]
    assert own is not None, "its shape fits"
    up, down = (None if part is None else part.to(own.device, torch.float32) for part in (patch.up, patch.down))
    assert up is not None
    change = patch.scale * (up if down is None else up @ down).reshape(own.shape)
    changed = change if patch.replaces else own.float() + change
    module._parameters[leaf] = nn.Parameter(changed.to(own.dtype), requires_grad=False)

    def put_back() -> None:
        module._parameters[leaf] = own

    return put_back


def _unquantized(x: Tensor | Quantized) -> Tensor:
    """What comes into a layer, which may have been prepared for an FP8 weight."""
    return x.x if isinstance(x, Quantized) else x


def _instead(patch: Patch, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A linear layer's hook that puts the patch's weight in the place of its own."""
    weight = patch.up.to(device, dtype)

    def replace(module: nn.Module, inputs: tuple[Tensor | Quantized], _: Tensor) -> Tensor:
        x = _unquantized(*inputs)
        bias = module._parameters["bias"]
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    return replace


def _beside(patch: Patch, device: torch.device, dtype: torch.dtype) -> Callable[..., Tensor]:
    """A linear layer's hook that adds what the patch adds to its result."""
    up = (patch.scale * patch.up.float()).to(device, dtype)
    down = None if patch.down is None else patch.down.to(device, dtype)

    def add(_: nn.Module, inputs: tuple[Tensor | Quantized], out: Tensor) -> Tensor:
        x = _unquantized(*inputs)
        inner = x if down is None else F.linear(x, down.to(x.dtype))
        return out + F.linear(inner, up.to(x.dtype))

    return add
