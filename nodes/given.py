"""What other nodes give, as what its socket promises: ComfyUI compares the names of types, and never sees a value."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import torch
from torch import Tensor

from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import TensorAudio

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
CHANNELS = {1: "grey", 2: "grey and opacity", 3: "colour", 4: "colour and opacity"}
"""Of an IMAGE's last dimension."""


def checked(execute: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A node's `execute` that refuses nothing where something is needed, and on LiveTalk's own sockets what is not its.

    A switch with an open input gives nothing, a checkpoint without a VAE too; an optional input then counts as open.
    """
    expected = inspect.signature(execute).parameters

    @functools.wraps(execute)
    def run(*args: Parameters.args, **inputs: Parameters.kwargs) -> Result:
        for name in [name for name, value in inputs.items() if value is None]:
            if expected[name].default is inspect.Parameter.empty:
                raise nothing(name)
            del inputs[name]
        for name, value in inputs.items():
            own = _own_type(expected[name].annotation)
            if own is not None and not isinstance(value, own):
                raise InputError(
                    f"{name} is {kind_of(value)}; needed is a {own.__name__} of LiveTalk's nodes: connect one"
                )
        return execute(*args, **inputs)

    return run


def nothing(name: str) -> InputError:
    """What a user is told of an input that is connected to nothing."""
    hint = " (a silent video has no sound)" if name.startswith("audio") else ""
    return InputError(f"{name} is empty: what is connected gave nothing{hint}; look at the node that it comes from")


def _own_type(annotation: Any) -> type | None:
    """The class of LiveTalk's own that an input is to be of, if it is to be of one."""
    choices = () if get_origin(annotation) is tuple else get_args(annotation) or (annotation,)
    return next((choice for choice in choices if isinstance(choice, type) and is_dataclass(choice)), None)


def numbers(name: str, value: Any) -> Tensor:
    """A tensor, an array or nested lists as a tensor of real numbers on the CPU; an `InputError` for anything else."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name} is {kind_of(value)}; a tensor is needed: look at the node that it comes from"
        ) from None
    if tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
        raise InputError(f"{name} is a tensor without plain numbers ({tensor.dtype}, {tensor.device}); give real ones")
    return tensor.cpu()


def kind_of(value: Any) -> str:
    """What a value is, in an error."""
    return "empty" if value is None else f"a {type(value).__name__}"


def pictures(name: str, value: Any) -> Tensor:
    """An IMAGE as [n,H,W,3] float, n and sizes above 0, as a rule in 0..1; transparency is laid on white.

    A batch of one may be left out; bytes are taken for 0..255. An `InputError` for all else.
    """
    images = numbers(name, value)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in CHANNELS or not images.numel():
        raise InputError(
            f"{name} of shape {list(images.shape)}; images [n,height,width,3] are needed: look at the node that they "
            "come from"
        )
    if not images.is_floating_point():
        if images.dtype not in (torch.uint8, torch.bool):
            raise InputError(
                f"{name} has values of {images.dtype}; fractions from 0 to 1 are needed: divide them first"
            )
        images = images / (255 if images.dtype == torch.uint8 else 1)
    images = images.float()
    if images.shape[-1] in (2, 4):
        images = torch.lerp(torch.ones_like(images[..., :-1]), images[..., :-1], images[..., -1:])
    return images.expand(-1, -1, -1, 3)


def one_mask(name: str, value: Any) -> Tensor:
    """The mask of a MASK that holds one, [H,W] float; dimensions of one, of a batch or of channels, may be more."""
    mask = numbers(name, value)
    mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
    if mask.ndim < 2 or not mask.numel() or math.prod(mask.shape[:-2]) != 1:
        held = math.prod(mask.shape[:-2]) if mask.ndim > 1 else 0
        raise InputError(
            f"{name} is a batch of {held} masks, {list(mask.shape)}; one [1,H,W] is needed: draw it on the portrait"
        )
    if not mask.isfinite().all():
        raise InputError(f"{name} has values that are no numbers (NaN or infinite); mend the node before it")
    return mask.reshape(mask.shape[-2:]).float()


def sound(name: str, value: Any) -> TensorAudio:
    """The sound of an AUDIO that holds one: samples [1,C,S], whole numbers taken for their type's full range."""
    if value is None:
        raise nothing(name)
    if not isinstance(value, Mapping) or not {"waveform", "sample_rate"} <= set(value):
        raise InputError(
            f"{name} is {kind_of(value)} without waveform and sample_rate; connect a node that gives AUDIO"
        )
    waveform = numbers(f"{name}'s waveform", value["waveform"])
    waveform = waveform.reshape((1,) * (3 - waveform.ndim) + tuple(waveform.shape))
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise InputError(
            f"{name} is a batch of {waveform.shape[0]} sounds, {list(waveform.shape)}; one [1,channels,samples] is "
            "needed: pick one of them"
        )
    if not waveform.is_floating_point():
        waveform = full_range(waveform)
    if not waveform.isfinite().all():
        raise InputError(f"{name} has samples that are no numbers (NaN or infinite); mend the node before it")
    return TensorAudio(waveform[0], sample_rate(name, value["sample_rate"]))


def full_range(samples: Tensor) -> Tensor:
    """Whole numbers as fractions of their type's range, -1..1; bytes are around 128, as in WAV files."""
    if samples.dtype == torch.bool:
        return samples.float()
    if samples.dtype == torch.uint8:
        return samples.float() / 128 - 1
    limits = torch.iinfo(samples.dtype)
    return samples.float() / float(-limits.min or limits.max)


def sample_rate(name: str, value: Any) -> int:
    """Samples a second, of a number in whatever form it comes."""
    try:
        rate = float(value)
    except (TypeError, ValueError, RuntimeError):
        rate = math.nan
    if not math.isfinite(rate):
        raise InputError(f"{name} has a sample_rate of {value!r}; a number such as 48000 is needed")
    return round(rate)
