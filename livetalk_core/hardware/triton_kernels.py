"""Triton kernels of what a block does between its products: one row of channels a program. See `fused`.

Arithmetic is in float32, rounded once for each tensor that is stored; offsets are in 64 bits. `comfy_kitchen`'s kernels
would do a part of it: its `adaln` adds no branch's result, and its `rms_rope` norms each head by itself.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..models.fp8 import FP8

if TYPE_CHECKING:
    Value = Any
else:  # Triton's compiler, unlike its interpreter, looks annotations up, and takes none that are not its own
    Value = tl.tensor

LAUNCH = {"num_warps": 8, "enable_fp_fusion": True}
"""How each is compiled: the 14B model's rows then take 44 to 80 registers of a thread, the widest, 13,824, 77 to 79."""


def jit(kernel: Callable[..., None]) -> Any:
    """Triton's, whose result is launched with a grid: `kernel[grid](...)`. One for all numbers of tokens."""
    return triton.jit(do_not_specialize=["rows", "tokens"])(kernel)


@jit
def _join_norm(
    x: Value, y: Value, gate: Value, factor: Value, shift: Value,
    joined: Value, normed: Value, width: Value, rows: Value,
    gate_stride: Value, factor_stride: Value, eps: Value,
    JOINS: tl.constexpr, GATED: tl.constexpr, NORMS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, channel = row // rows, tl.arange(0, BLOCK)
    inside, at = channel < width, row * width + channel
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if JOINS:
        added = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            added *= tl.load(gate + batch * gate_stride + channel, mask=inside, other=0.0).to(tl.float32)
        kept = (values + added).to(joined.dtype.element_ty)
        tl.store(joined + at, kept, mask=inside)
        values = kept.to(tl.float32)
    if NORMS:
        centred = tl.where(inside, values - tl.sum(values, 0) / width, 0.0)
        centred *= tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
        place = batch * factor_stride + channel
        by = tl.load(factor + place, mask=inside, other=0.0).to(tl.float32)
        plus = tl.load(shift + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(normed + at, (centred * by + plus).to(normed.dtype.element_ty), mask=inside)


@jit
def _norm_rotate(
    x: Value, weight: Value, rotation: Value, out: Value,
    width: Value, tokens: Value, head_pairs: Value, eps: Value,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel, pair = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 2)
    inside = channel < width
    values = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    values *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(values, (BLOCK // 2, 2)))
    angle = rotation + (row % tokens) * head_pairs + pair % head_pairs
    cos = tl.load(angle, mask=pair < width // 2, other=0.0)
    sin = tl.load(angle + tokens * head_pairs, mask=pair < width // 2, other=0.0)
    turned = tl.interleave(even * cos - odd * sin, even * sin + odd * cos)
    tl.store(out + row * width + channel, turned.to(out.dtype.element_ty), mask=inside)


@jit
def _to_fp8(
    x: Value, out: Value, scale: Value, width: Value, largest: Value, tiny: Value,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row, channel = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = channel < width
    values = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    size = tl.maximum(tl.max(tl.abs(values), 0) / largest, tiny)
    tl.store(scale + row, size)
    tl.store(out + row * width + channel, (values / size).to(out.dtype.element_ty), mask=inside)


def join_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """x [B,L,C] + y * gate, and the layer norm of that, times factor plus shift.

    Without `y` the first result is `x`, without `factor` the second. Gate, factor and shift are [C], or [1,1,C] or
    [B,1,C].
    """
    x = x.contiguous()
    joined = x if y is None else torch.empty_like(x)
    normed = x if factor is None else torch.empty_like(x)
    y, gate, factor, shift = (None if part is None else part.contiguous() for part in (y, gate, factor, shift))
    count, rows, width = x.shape
    with torch.cuda.device_of(x):
        _join_norm[(count * rows,)](
            x, x if y is None else y, x if gate is None else gate, x if factor is None else factor,
            x if shift is None else shift, joined, normed, width, rows, _stride(gate), _stride(factor), eps,
            JOINS=y is not None, GATED=gate is not None, NORMS=factor is not None,
            BLOCK=triton.next_power_of_2(width), **LAUNCH,
        )  # fmt: skip
    return joined, normed


def norm_rotate(x: Tensor, weight: Tensor, rotation: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of x [B,L,C] times weight [C]; pairs of channels turned by rotation [2,L,D/2]."""
    x, rotation = x.contiguous(), rotation.contiguous()
    out, (count, rows, width) = torch.empty_like(x), x.shape
    with torch.cuda.device_of(x):
        _norm_rotate[(count * rows,)](
            x, weight.contiguous(), rotation, out, width, rows, rotation.shape[-1], eps,
            BLOCK=triton.next_power_of_2(width), **LAUNCH,
        )  # fmt: skip
    return out


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M,K] as FP8 values, and what multiplies each back in float32 [M,1]."""
    x, (count, width) = x.contiguous(), x.shape
    out, scale = torch.empty_like(x, dtype=FP8), x.new_empty(count, 1, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _to_fp8[(count,)](
            x, out, scale, width, torch.finfo(FP8).max, torch.finfo(torch.float32).tiny,
            BLOCK=triton.next_power_of_2(width), **LAUNCH,
        )  # fmt: skip
    return out, scale


def _stride(part: Tensor | None) -> int:
    """Elements from one of the batch to the next; 0 where all share it."""
    return part.shape[-1] if part is not None and part.ndim == 3 and part.shape[0] > 1 else 0
