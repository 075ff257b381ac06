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
from ..presets import Preset
from ..shapes import VideoShape
from .fused import Fp8Operations, Fp8TensorwiseOperations, has_triton, operation

logger = logging.getLogger(__name__)

TIMED_RUNS = 5
TOLERANCE, LOSSY_TOLERANCE = 1e-2, 6e-2
"""Root-mean-square errors allowed against softmax in float32, relative to its result: of exact kernels (bfloat16 makes
0.3 %), and of those that multiply in INT8 or FP8 (SageAttention on Ada, Hopper and Blackwell makes 4 %)."""
FP8_TOLERANCE = 2e-2
"""Largest error allowed of an FP8 layer against its simulation, relative to the largest result."""
FP8_WAYS = ((fp8.Operations, Fp8Operations), (fp8.TensorwiseOperations, Fp8TensorwiseOperations))
"""Kinds of FP8 layers, the fewest passes first: with PyTorch's operations, and quantising by Triton."""
COMPARED_QUERIES = 64
"""Of each call, spread over all of its queries: softmax in float32 of every one would not fit on a card."""


class Call(NamedTuple):
    """One of the ways in which a model calls attention."""

    batch: int
    queries: int
    keys: int


ANY_MODEL = (Call(1, 512, 512), Call(9, 64, 32))


class Shape(NamedTuple):
    """Where attention runs, on what, and how the model calls it."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    head_dim: int
    calls: tuple[Call, ...] = ANY_MODEL

    @classmethod
    def of(cls, preset: Preset, device: torch.device, dtype: torch.dtype) -> "Shape":
        """All that a preset's transformer asks for at the size of its stream.

        All tokens see all tokens, text, image, and with two speakers those of the first frame; each frame its sound.
        """
        config, stream = preset.transformer, preset.stream
        video = VideoShape(stream.frame_num, stream.height, stream.width)
        frames, rows, columns = video.latent(preset.geometry).grid(preset.geometry)
        each = rows * columns
        keys = (frames * each, config.text_len, preset.image_tokens, each) if config.prompted else (frames * each,)
        calls = [Call(1, frames * each, count) for count in keys]
        most_speakers = 2 if config.prompted else 1
        calls += [Call(frames, each, (1 + more) * config.context_tokens) for more in range(most_speakers)]
        return cls(device, dtype, config.num_heads, config.head_dim, tuple(calls))


class Kernel(NamedTuple):
    """A way to compute attention; `load` raises where it is not installed. Only exact ones are chosen unasked.

    `traced`: it is PyTorch's own, which torch.compile looks into.
    """

    load: Callable[[], AttentionFunction]
    exact: bool = True
    gpu_only: bool = True
    traced: bool = False


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
    "sdpa": Kernel(lambda: attend, gpu_only=False, traced=True),
    "cudnn": Kernel(_cudnn, traced=True),
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
    attention = _loaded(name)
    if fault := fault_of(attention, shape, TOLERANCE if kernel.exact else LOSSY_TOLERANCE):
        raise InputError(fault)
    return attention


def fault_of(attention: AttentionFunction, shape: Shape, allowed: float = LOSSY_TOLERANCE) -> str:
    """How a kernel's error exceeds what is allowed of it, at the first call where it does; empty where at none."""
    for call in shape.calls:
        error = relative_error(attention, call, shape)
        if not error <= allowed:
            return (
                f"its error against softmax is {error:.1%} at {call.batch} x {call.queries} queries and {call.keys} "
                f"keys; at most {allowed:.0%} is allowed"
            )
    return ""


def _loaded(name: str) -> AttentionFunction:
    """The kernel. What torch.compile cannot look into, it takes as one operation, whatever the kernel does there."""
    kernel = KERNELS[name].load()
    if KERNELS[name].traced:
        return kernel

    def attention(q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return as_one_operation(q_BLND, k_BSND, v_BSND, name)
        return kernel(q_BLND, k_BSND, v_BSND)

    return attention


@operation("attention")
def as_one_operation(q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
    return KERNELS[name].load()(q, k, v).contiguous()


@as_one_operation.register_fake
def _shape_of_operation(q: Tensor, k: Tensor, v: Tensor, name: str) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def relative_error(attention: AttentionFunction, call: Call, shape: Shape) -> float:
    """How far a kernel is from softmax in float32: root mean square of the difference over that of the result.

    The whole call is run, and some of its queries are compared.
    """
    q, k, v = _random_parts(call, shape)
    rows = torch.arange(0, call.queries, max(1, call.queries // COMPARED_QUERIES), device=q.device)
    out = attention(q, k, v).index_select(1, rows).float()
    difference, size = out.new_zeros(()), out.new_zeros(())
    for head in range(shape.heads):  # one at a time: the scores of all of them are gigabytes
        some, keys, values = q[:, rows, head].float(), k[:, :, head].float(), v[:, :, head].float()
        exact = (some @ keys.mT * shape.head_dim**-0.5).softmax(-1) @ values
        difference += (out[:, :, head] - exact).square().sum()
        size += exact.square().sum()
    return (difference / size).sqrt().item()


def _time(attention: AttentionFunction, shape: Shape) -> float:
    """Seconds of the fastest of a few runs."""
    parts, best = (
        _random_parts(max(shape.calls, key=lambda call: call.batch * call.queries * call.keys), shape),
        float("inf"),
    )
    for _ in range(TIMED_RUNS):
        torch.cuda.synchronize(shape.device)
        start = time.perf_counter()
        attention(*parts)
        torch.cuda.synchronize(shape.device)
        best = min(best, time.perf_counter() - start)
    return best


def _random_parts(call: Call, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a model has them: keys whose channels have means of their own, larger values.

    Nothing beside them is held: ComfyUI asks while the model is on the device, with room for a step.
    """
    generator = torch.Generator(shape.device).manual_seed(0)
    place: Any = {"generator": generator, "device": shape.device, "dtype": shape.dtype}
    sizes = [(call.batch, count, shape.heads, shape.head_dim) for count in (call.queries, call.keys, call.keys)]
    q, k, v = (torch.randn(size, **place) for size in sizes)
    means = torch.randn(2, 1, 1, shape.heads, shape.head_dim, **place)
    return q, k.add_(means[0], alpha=2), v.mul_(3).add_(means[1])


@cache
def fp8_operations(device: torch.device) -> Any:
    """The layers for a transformer whose blocks are FP8, with one line where they do not multiply in FP8.

    A CPU simulates it. PyTorch for Windows has no kernel that scales row by row, and elsewhere not for every card: rows
    are then scaled after the product. On a GPU without FP8 products the weights stay FP8 and are multiplied out to what
    comes in, so that only memory is saved.
    """
    if device.type == "cpu":
        logger.warning("FP8 on a CPU is simulated in float32: it shows what FP8 does to the picture, and is slow")
        return fp8.SimulatedOperations
    faults = []
    for plain, by_triton in FP8_WAYS:
        fault = _fault_of_fp8(device, plain.Linear)
        if not fault:
            return by_triton if has_triton() and not _fault_of_fp8(device, by_triton.Linear) else plain
        faults.append(fault)
    reason = faults[0]
    logger.warning("%s does not multiply in FP8 (%s); weights are FP8, products are not: no faster", device, reason)
    return operations


def _fault_of_fp8(device: torch.device, kind: type[fp8.Linear]) -> str:
    """Why a kind of layer cannot be used on a device, whatever PyTorch or Triton say; empty where it can."""
    try:
        _probe_fp8(device, kind)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.debug("%s: %s", kind.__name__, fault)
        return fault
    return ""


def _probe_fp8(device: torch.device, kind: type[fp8.Linear]) -> None:
    """Raise where an FP8 layer does not run on the device, or gives other numbers than its simulation."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(side, generator=generator).to(device) for side in ((48, 64), (32, 64)))
    kernel, simulation = (make(64, 32, device=device) for make in (kind, fp8.SimulatedLinear))
    simulation.bias = kernel.bias
    for layer in (kernel, simulation):
        values, layer.scale_weight = fp8.scaled(weight, rows=True)
        layer.weight = nn.Parameter(values, requires_grad=False)
    for part in (x, x.bfloat16()):
        exact = simulation(part).float()
        error = (kernel(part).float() - exact).abs().max().item() / exact.abs().max().item()
        if not error <= FP8_TOLERANCE:
            raise InputError(f"its error against the simulation is {error:.1e}; at most {FP8_TOLERANCE:.0e} is allowed")
