"""A CUDA device that is not there: shapes, dtypes and devices pass through the program, and nothing is computed.

PyTorch's FakeTensorMode refuses what a GPU would refuse: operations between devices, products of different dtypes. What
a CPU build does otherwise than a CUDA build is exchanged: fused attention and convolutions give what cuDNN's would.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from livetalk_core.checkpoints import header
from livetalk_core.parallel import offload

CUDA = torch.device("cuda:0")
CUDA_TYPE, META_TYPE, TYPES = 1, 14, 32
"""Numbers of c10's device types."""


def let_cuda_be_indexed() -> None:
    """Indexing asks for the device's guard, which a CPU build has not: the meta device's, which does nothing."""
    if torch.cuda.is_available():
        return
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("*c10.*"))))
    guards = (ctypes.c_void_p * TYPES).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA_TYPE] = guards[META_TYPE]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """A fused kernel's result alone, and what such a kernel checks."""
    for name, kinds in (("device", {x.device for x in (q, k, v)}), ("dtype", {x.dtype for x in (q, k, v)})):
        if len(kinds) > 1:
            raise RuntimeError(f"attention of queries, keys and values of more than one {name}: {kinds}")
    if any(x.stride(-1) != 1 for x in (q, k, v)):
        raise RuntimeError("attention of queries, keys or values whose channels are not beside each other")
    return torch.empty_like(q)


def convolution(dims: int, transposed: bool = False) -> Callable[..., Tensor]:
    """A convolution as cuDNN's: its result in the layout of what comes in."""

    def convolve(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
    ) -> Tensor:
        for other in (weight, bias):
            if other is not None and (other.device, other.dtype) != (x.device, x.dtype):
                raise RuntimeError(f"convolution of {x.dtype} on {x.device} by {other.dtype} on {other.device}")
        strides, paddings = ((value,) * dims if isinstance(value, int) else value for value in (stride, padding))
        sides = zip(x.shape[2:], weight.shape[2:], strides, paddings, strict=True)
        if transposed:
            channels, sizes = weight.shape[1], [(n - 1) * s - 2 * p + k for n, k, s, p in sides]
        else:
            channels, sizes = weight.shape[0], [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
        last = torch.channels_last_3d if dims == 3 else torch.channels_last
        kept = last if x.is_contiguous(memory_format=last) else torch.contiguous_format
        return torch.empty((len(x), channels, *sizes), dtype=x.dtype, device=x.device, memory_format=kept)

    return convolve


def move(module: nn.Module, device: Any) -> nn.Module:
    """`nn.Module.to`, which swaps tensors in a way that pretended ones refuse."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to(device), requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(device)
    return module


class Stream:
    """A stream on which nothing has to be waited for."""

    def __init__(self, *_: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None:
        """See `torch.cuda.Stream`."""

    def wait_event(self, *_: Any) -> None:
        """See `torch.cuda.Stream`."""

    def record_event(self) -> None:
        """See `torch.cuda.Stream`."""


@contextlib.contextmanager
def pretended(watch: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Tensors on `CUDA` may be made and computed with inside; `watch` sees every operation on them."""
    let_cuda_be_indexed()
    mode, read = FakeTensorMode(allow_non_fake_inputs=True), header.Checkpoint.__getitem__

    def mapped(checkpoint: header.Checkpoint, name: str) -> Tensor:
        with unset_fake_temporarily():
            return mode.from_tensor(read(checkpoint, name))

    functions = torch.nn.functional
    exchanged = [
        (header.Checkpoint, "__getitem__", mapped),
        (functions, "scaled_dot_product_attention", fused_attention),
        (functions, "conv3d", convolution(3)),
        (functions, "conv2d", convolution(2)),
        (functions, "conv_transpose2d", convolution(2, transposed=True)),
        (nn.Module, "to", move),
        (torch.cuda, "Stream", Stream),
        (torch.cuda, "current_stream", Stream),
        (torch.cuda, "stream", lambda *_: contextlib.nullcontext()),
        (torch.cuda, "empty_cache", getattr(watch, "empty_cache", lambda: None)),
        (Tensor, "record_stream", lambda *_: None),
        (offload, "_can_pin", lambda *_: False),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, replacement in exchanged:
            stack.enter_context(patch.object(place, name, replacement))
        stack.enter_context(mode)
        stack.enter_context(watch)
        yield
