"""What a block does between its products, on GPUs in fewer passes over memory: `models.passes` by Triton's kernels.

Each is an operation of PyTorch's, so that what counts operations sees it, and what follows shapes alone need not run
it. Like every kernel they are tried before they are used; where Triton is missing, as on Windows, PyTorch's own do it.
torch.compile makes kernels of its own, of the plain operations.
"""

import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import CustomOpDef

from ..errors import InputError
from ..models import fp8, operations
from ..models.passes import PLAIN, Modulation, Passes
from ..models.transformer import Transformer

logger = logging.getLogger(__name__)

NAMESPACE = re.sub(r"\W", "_", __package__ or "livetalk")
"""In which PyTorch finds the operations."""
TOLERANCE = 1e-2
"""Root-mean-square error allowed against the plain passes in float32, relative to theirs; bfloat16 makes 0.3 %."""
ROWS = 67
"""Tokens of a trial."""


def _kernels() -> Any:
    return importlib.import_module(".triton_kernels", __package__)


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Makes a function one operation of PyTorch's, named after this copy of the pack.

    Two copies may be in one process, as a package and in ComfyUI; the younger must not take the older one's place.
    """
    return torch.library.custom_op(f"{NAMESPACE}::{name}", mutates_args=())


@operation("norm")
def _norm(x: Tensor, factor: Tensor, shift: Tensor, eps: float) -> Tensor:
    return _kernels().join_norm(x, None, None, factor, shift, eps)[1]


@operation("join")
def _join(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    return _kernels().join_norm(x, y, gate, None, None, 0.0)[0]


@operation("join_norm")
def _join_norm(
    x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return _kernels().join_norm(x, y, gate, factor, shift, eps)


@operation("norm_rotate")
def _norm_rotate(x: Tensor, weight: Tensor, rotation: Tensor, eps: float) -> Tensor:
    return _kernels().norm_rotate(x, weight, rotation, eps)


@operation("to_fp8")
def _to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    return _kernels().to_fp8(x)


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_norm.register_fake(_like)
_join.register_fake(_like)
_join_norm.register_fake(lambda x, *_: (_like(x), _like(x)))
_norm_rotate.register_fake(_like)
_to_fp8.register_fake(lambda x: (torch.empty_like(x, dtype=fp8.FP8), x.new_empty(len(x), 1, dtype=torch.float32)))


class Fused(Passes):
    """One kernel for what `Passes` does in several.

    Plain where a layer with weights is none of our own, ComfyUI's for one: they may be elsewhere, or changed on their
    way. And where torch.compile looks, which fuses the plain operations with what is around them.
    """

    def norm(self, x_BLC: Tensor, norm: nn.Module, by: Modulation | None = None) -> Tensor:
        """See `Passes.norm`."""
        affine = _affine(norm, by)
        return super().norm(x_BLC, norm, by) if affine is None else _norm(x_BLC, *affine)

    def join(self, x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor | None = None) -> Tensor:
        """See `Passes.join`; one operation without a gate is one pass already."""
        if gate_B1C is None or torch.compiler.is_compiling():
            return super().join(x_BLC, y_BLC, gate_B1C)
        return _join(x_BLC, y_BLC, gate_B1C)

    def join_norm(
        self, x_BLC: Tensor, y_BLC: Tensor, gate_B1C: Tensor | None, norm: nn.Module, by: Modulation | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Passes.join_norm`."""
        affine = _affine(norm, by)
        if affine is None:
            return super().join_norm(x_BLC, y_BLC, gate_B1C, norm, by)
        return _join_norm(x_BLC, y_BLC, gate_B1C, *affine)

    def norm_rotate(self, x_BLC: Tensor, norm: nn.Module, rotation_2LP: Tensor, heads: int) -> Tensor:
        """See `Passes.norm_rotate`."""
        if torch.compiler.is_compiling() or not isinstance(norm, operations.RMSNorm) or norm.eps is None:
            return super().norm_rotate(x_BLC, norm, rotation_2LP, heads)
        return _norm_rotate(x_BLC, norm.weight, rotation_2LP, norm.eps).unflatten(-1, (heads, -1))


def _affine(norm: nn.Module, by: Modulation | None) -> tuple[Tensor, Tensor, float] | None:
    """By what a layer norm's result is multiplied, what is added, and its epsilon; None where it cannot be fused."""
    if torch.compiler.is_compiling() or not isinstance(norm, nn.LayerNorm):
        return None
    if by is not None:
        return None if norm.elementwise_affine else (by.factor_B1C, by.shift_B1C, norm.eps)
    return (norm.weight, norm.bias, norm.eps) if isinstance(norm, operations.LayerNorm) else None


class Fp8Linear(fp8.Linear):
    """What comes in is quantised by one kernel."""

    def quantized(self, x: Tensor) -> fp8.Quantized:
        """See `fp8.Linear.quantized`."""
        if torch.compiler.is_compiling():
            return super().quantized(x)
        return fp8.Quantized(x, *_to_fp8(x.flatten(0, -2)))


class Fp8TensorwiseLinear(Fp8Linear, fp8.TensorwiseLinear):
    """The same, multiplying as `fp8.TensorwiseLinear`."""


class Fp8Operations(fp8.Operations):
    """The layers of `fp8.Operations`, which quantise by one kernel."""

    Linear = Fp8Linear


class Fp8TensorwiseOperations(fp8.Operations):
    """The layers of `fp8.TensorwiseOperations`, which quantise by one kernel."""

    Linear = Fp8TensorwiseLinear


def passes_of(transformer: Transformer, device: torch.device) -> Passes:
    """How a transformer's blocks go over memory on a device. With gradients plainly: the kernels have none."""
    if device.type != "cuda" or torch.is_grad_enabled():
        return PLAIN
    config = transformer.config
    return passes_for(device, transformer.dtype, config.dim, config.num_heads)


def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@cache
def passes_for(device: torch.device, dtype: torch.dtype, width: int, heads: int) -> Passes:
    """Triton's kernels, tried at this width; PyTorch's own, and one line, where they fail; without it where there are
    none.
    """
    if not has_triton():
        return PLAIN
    try:
        if fault := fault_of(Fused(), device, dtype, width, heads):
            raise InputError(fault)
    except Exception as error:  # whatever Triton raises, or its compiler, it cannot be used here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("Triton's kernels cannot be used here (%s); PyTorch's own take their place", reason)
        return PLAIN
    return Fused()


def fault_of(passes: Passes, device: torch.device, dtype: torch.dtype, width: int, heads: int) -> str:
    """Which of the passes is further from the plain ones in float32 than is allowed; empty where none is."""
    for name, error in errors_of(passes, device, dtype, width, heads).items():
        if not error <= TOLERANCE:
            return f"{name} differs by {error:.1%} from PyTorch's own; at most {TOLERANCE:.0%} is allowed"
    return ""


def errors_of(
    passes: Passes, device: torch.device, dtype: torch.dtype, width: int, heads: int, rows: int = ROWS
) -> dict[str, float]:
    """Each pass's root-mean-square error against the plain ones in float32, relative to their result."""
    tried = trials(passes, device, dtype, width, heads, rows)
    exact = trials(PLAIN, device, torch.float32, width, heads, rows)
    with torch.inference_mode():
        return {name: error_of(tried[name](), exact[name]()) for name in exact}


def error_of(tried: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest root-mean-square error of results, each relative to the exact one."""
    return max(map(_relative, tried, exact))


def trials(
    passes: Passes, device: torch.device, dtype: torch.dtype, width: int, heads: int, rows: int = ROWS
) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Each pass on two times so many rows of random numbers, which are the same in all dtypes."""
    place: Any = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    x, y = (torch.randn(2, rows, width, **place).bfloat16().to(dtype) for _ in "xy")
    shift, factor, gate = torch.randn(3, 2, 1, width, **place)
    by, angles = Modulation(shift, 1 + factor, gate), torch.rand(rows, width // heads // 2, **place) * 6
    rotation = torch.stack([angles.cos(), angles.sin()])
    plain = operations.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    affine = operations.LayerNorm(width, eps=1e-6, device=device, dtype=dtype)
    rms = operations.RMSNorm(width, eps=1e-6, device=device, dtype=dtype)
    for weight in (affine.weight, affine.bias, rms.weight):
        weight.data = (1 + torch.randn(width, **place)).bfloat16().to(dtype)
    return {
        "norm and modulation": lambda: (passes.norm(x, plain, by),),
        "gate": lambda: (passes.join(x, y, gate),),
        "gate and norm": lambda: passes.join_norm(x, y, gate, affine),
        "sum, norm and modulation": lambda: passes.join_norm(x, y, None, plain, by),
        "norm and rotation": lambda: (passes.norm_rotate(x, rms, rotation, heads),),
    }


def _relative(tried: Tensor, exact: Tensor) -> float:
    return ((tried.float() - exact.float()).norm() / exact.float().norm()).item()
