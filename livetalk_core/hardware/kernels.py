"""Which kernels a device runs: each is probed before it is used, and the default is the fastest that is exact.

Those of attention are all `models.attention.AttentionFunction`s. A kernel that is not installed, does not run on the
device, or gives other numbers than plain softmax is replaced by PyTorch's own, with one line that says so and why.
"""

import importlib
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import InputError
from ..models import fp8, operations
from ..models.attention import AttentionFunction, attend

logger = logging.getLogger(__name__)

PROBE_TOKENS = (512, 200)
TIMED_TOKENS = (4096, 4096)
TIMED_RUNS = 5
TOLERANCE = 2e-2
"""Largest error allowed against float32 softmax, for unit normal inputs in bfloat16; SageAttention's stays below."""


class Shape(NamedTuple):
    """Where attention runs, and on what."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    head_dim: int


class Kernel(NamedTuple):
    """A way to compute attention; `load` raises where it is not installed. Only exact ones are chosen unasked."""

    load: Callable[[], AttentionFunction]
    exact: bool = True
    gpu_only: bool = True


def _cudnn() -> AttentionFunction:
    def attention(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return attend(q_BLND, k_BSND, v_BSND)

    return attention


def _flash2() -> AttentionFunction:
    return importlib.import_module("flash_attn").flash_attn_func


def _flash3() -> AttentionFunction:
    kernel = importlib.import_module("flash_attn_interface").flash_attn_func

    def attention(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        out = kernel(q_BLND, k_BSND, v_BSND)
        return out[0] if isinstance(out, tuple) else out  # older releases also return the log-sum-exp

    return attention


def _sage() -> AttentionFunction:
    kernel = importlib.import_module("sageattention").sageattn
    return lambda q_BLND, k_BSND, v_BSND: kernel(q_BLND, k_BSND, v_BSND, tensor_layout="NHD")


def _xformers() -> AttentionFunction:
    return importlib.import_module("xformers.ops").memory_efficient_attention


KERNELS = {
    "sdpa": Kernel(lambda: attend, gpu_only=False),
    "cudnn": Kernel(_cudnn),
    "flash2": Kernel(_flash2),
    "flash3": Kernel(_flash3),
    "xformers": Kernel(_xformers),
    "sage": Kernel(_sage, exact=False),
}
"""`sdpa` is PyTorch's own choice; `sage` (INT8 products) is the one that loses precision."""


def choose_attention(name: str, shape: Shape) -> AttentionFunction:
    """The kernel `name`, or for `auto` the fastest exact one; PyTorch's own where that does not run."""
    if name == "auto":
        return _fastest(shape)
    if name not in KERNELS:
        raise InputError(f"attention {name!r}; the kernels: auto, {', '.join(KERNELS)}")
    try:
        return _probed(name, shape)
    except Exception as error:  # whatever a foreign kernel raises, it cannot be used here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("attention %r cannot be used here (%s); PyTorch's own takes its place", name, reason)
        return attend


def name_of(attention: AttentionFunction, asked: str) -> str:
    """What a record calls the kernel that runs where `asked` was asked for."""
    return "sdpa" if attention is attend else asked


def _fastest(shape: Shape) -> AttentionFunction:
    if shape.device.type != "cuda":
        return attend
    seconds: dict[float, AttentionFunction] = {}
    for name, kernel in KERNELS.items():
        if not kernel.exact:
            continue
        try:
            attention = _probed(name, shape)
        except Exception as error:
            logger.debug("attention %r: %s", name, error)
            continue
        seconds[_time(attention, shape)] = attention
    return seconds[min(seconds)] if seconds else attend


def _probed(name: str, shape: Shape) -> AttentionFunction:
    """The kernel, once it has run and agreed with softmax in float32; raises what it raises where it does not."""
    kernel = KERNELS[name]
    if kernel.gpu_only and shape.device.type != "cuda":
        raise InputError(f"it needs a CUDA device, and this is {shape.device}")
    attention = kernel.load()
    parts = _random_parts(PROBE_TOKENS, shape)
    found, (q, k, v) = attention(*parts), (part.float() for part in parts)
    scores = torch.einsum("blnd,bsnd->bnls", q, k) * shape.head_dim**-0.5
    wanted = torch.einsum("bnls,bsnd->blnd", scores.softmax(-1), v)
    error = (found.float() - wanted).abs().max().item()
    if not error <= TOLERANCE:
        raise InputError(f"its error against softmax is {error:.1e}; at most {TOLERANCE:.0e} is allowed")
    return attention


def _time(attention: AttentionFunction, shape: Shape) -> float:
    """Seconds of the fastest of a few runs."""
    parts, best = _random_parts(TIMED_TOKENS, shape), float("inf")
    for _ in range(TIMED_RUNS):
        torch.cuda.synchronize(shape.device)
        start = time.perf_counter()
        attention(*parts)
        torch.cuda.synchronize(shape.device)
        best = min(best, time.perf_counter() - start)
    return best


def _random_parts(tokens: tuple[int, int], shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of unit variance."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = tokens
    sizes = ((1, count, shape.heads, shape.head_dim) for count in (queries, keys, keys))
    q, k, v = (torch.randn(size, generator=generator).to(shape.device, shape.dtype) for size in sizes)
    return q, k, v


@cache
def fp8_operations(device: torch.device) -> Any:
    """The layers for a transformer whose blocks are FP8, with one line where they do not multiply in FP8.

    A CPU simulates it. On a GPU that cannot, the weights stay FP8 and are multiplied out to what comes in, so that only
    memory is saved.
    """
    if device.type == "cpu":
        logger.warning("FP8 on a CPU is simulated in float32: it shows what FP8 does to the picture, and is slow")
        return fp8.SimulatedOperations
    try:
        _probe_fp8(device)
    except Exception as error:  # whatever PyTorch says where the device or its own build cannot
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("%s does not multiply in FP8 (%s); weights are FP8, products are not: no faster", device, reason)
        return operations
    return fp8.Operations


def _probe_fp8(device: torch.device) -> None:
    """Raise where an FP8 layer does not run on the device, or gives other numbers than its simulation."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(side, generator=generator).to(device) for side in ((48, 64), (32, 64)))
    found, wanted = (make(64, 32, bias=False, device=device) for make in (fp8.Linear, fp8.SimulatedLinear))
    for layer in (found, wanted):
        values, layer.scale_weight = fp8.scaled(weight, rows=True)
        layer.weight = nn.Parameter(values, requires_grad=False)
    error = (found(x) - wanted(x)).abs().max().item() / wanted(x).abs().max().item()
    if not error <= TOLERANCE:
        raise InputError(f"its error against the simulation is {error:.1e}; at most {TOLERANCE:.0e} is allowed")
