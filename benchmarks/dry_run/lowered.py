"""What torch.compile makes of a block on a GPU that is not there: its kernels, and the bytes that they move.

Inductor traces, decomposes, lowers and fuses as it would for an H100; of the code that it would write then, only the
plan is looked at. Products and attention are kernels of their own, and left out, as they are of the uncompiled counts.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import CudaInterface
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor import scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from livetalk_core.hardware.compiling import compile_vae
from livetalk_core.hardware.kernels import as_one_operation
from livetalk_core.models import fp8, operations
from livetalk_core.models.blocks import Block, KeyValue, Step, run_block
from livetalk_core.models.codec import build_vae
from livetalk_core.models.passes import Modulation
from livetalk_core.models.tokens import Tokens
from livetalk_core.models.vae import VAE
from livetalk_core.presets import Preset
from livetalk_core.shapes import VideoShape

from .device import CUDA, let_cuda_be_indexed

TEXT = 512
H100 = DeviceProperties("cuda", 0, 132, 90, 9, 65536, 2048, 1024, 32)


class _Counted(Exception):
    """The plan has been read: nothing of it is to be run."""


@dataclass
class Lowered:
    """One block's kernels beside its products and attention, and the bytes that they read and write."""

    kernels: int = 0
    moved: int = 0


def lowered_block(preset: Preset, dtype: torch.dtype = torch.bfloat16, in_fp8: bool = False) -> Lowered:
    """Count what compiling makes of a block at the size of a preset's stream."""
    let_cuda_be_indexed()
    lowered = Lowered()

    def read(graph: Any, inputs: list[Any]) -> Any:
        lowered.kernels, lowered.moved = _plan_of(graph, inputs)
        raise _Counted

    decompositions: Any = select_decomp_table
    backend = aot_autograd(fw_compiler=read, inference_compiler=read, decompositions=decompositions)
    compiled = torch.compile(run_block, fullgraph=True, dynamic=False, backend=backend)
    with torch.no_grad(), _as_h100(), FakeTensorMode():
        with CUDA:
            call = _call(preset, dtype, in_fp8)
        try:
            compiled(*call)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, _Counted):
                raise
        finally:
            torch._dynamo.reset()
    return lowered


def lowered_vae(preset: Preset, dtype: torch.dtype = torch.bfloat16) -> dict[str, Lowered]:
    """Count what compiling makes of the VAE's work on a chunk at the size of a preset's stream.

    All calls of all graphs; not what is beside these: denormalising the latent, clamping the frames.
    """
    let_cuda_be_indexed()
    stream, geometry = preset.stream, preset.geometry
    shape = VideoShape(stream.frame_num, stream.height, stream.width).latent(geometry)
    counts: dict[str, Lowered] = {}
    with torch.no_grad(), _as_h100(), FakeTensorMode():
        with CUDA:
            vae = build_vae(preset.vae, operations, None, dtype).requires_grad_(False)
            latent = torch.empty(1, geometry.latent_channels, *shape)
            frames = torch.empty(1, 3, stream.motion_frames, stream.height, stream.width)
        assert isinstance(vae, VAE), "another VAE is not compiled"
        for part, work in (("decode", lambda: [*vae.decode_groups(latent)]), ("encode", lambda: vae.encode(frames))):
            lowered = counts[part] = Lowered()
            compile_vae(vae, _counting(lowered))
            try:
                work()
            finally:
                torch._dynamo.reset()
            for half, names in ((vae.encoder, ("forward",)), (vae.decoder, ("begin", "finish"))):
                for name in names:
                    delattr(half, name)
    return counts


def _counting(lowered: Lowered) -> Callable[..., Any]:
    """A backend that adds what it has planned with each call, and gives results of the right shapes."""

    def read(graph: Any, inputs: list[Any]) -> Any:
        kernels, moved = _plan_of(copy.deepcopy(graph), inputs)

        def call(*arguments: Any) -> Any:
            lowered.kernels, lowered.moved = lowered.kernels + kernels, lowered.moved + moved
            return graph(*arguments)

        return make_boxed_func(call)

    decompositions: Any = select_decomp_table
    return aot_autograd(fw_compiler=read, inference_compiler=read, decompositions=decompositions)


def _call(preset: Preset, dtype: torch.dtype, in_fp8: bool) -> tuple[Any, ...]:
    """A block and what it is given in a step."""
    config, stream = preset.transformer, preset.stream
    block = Block(config, fp8.Operations if in_fp8 else operations, dtype=dtype).requires_grad_(False)
    if in_fp8:
        fp8.quantize(block)
    grid = VideoShape(stream.frame_num, stream.height, stream.width).latent(preset.geometry).grid(preset.geometry)
    frames, rows, columns = grid
    tokens = frames * rows * columns
    x = torch.empty(1, tokens, config.dim, dtype=dtype)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return as_one_operation(q, k, v, "flash3")

    def keys(batch: int, count: int) -> KeyValue:
        return KeyValue(*(torch.empty(batch, count, config.num_heads, config.head_dim, dtype=dtype) for _ in "kv"))

    def modulation() -> Modulation:
        return Modulation(*(torch.empty(1, 1, config.dim) for _ in "sfg"))

    step = Step(torch.empty(2, tokens, config.head_dim // 2), Tokens(grid), None, attention)
    contexts = (keys(1, TEXT), keys(1, preset.image_tokens), keys(frames, config.context_tokens))
    return block, x, step, (modulation(), modulation()), *contexts


def _plan_of(graph_module: Any, inputs: list[Any]) -> tuple[int, int]:
    """Kernels and bytes of the fused plan, without what calls a library."""
    fake: Any = torch._guards.detect_fake_mode(inputs)
    with V.set_fake_mode(fake), V.set_debug_handler(DebugContext()):
        post_grad_passes(graph_module, True)
        graph = GraphLowering(graph_module, example_inputs=inputs, is_inference=True)
        with V.set_graph_handler(graph):
            graph.run(*inputs)
            graph._update_scheduler()
            apart = (scheduler.NopKernelSchedulerNode, scheduler.ExternKernelSchedulerNode)
            own = [node for node in graph.scheduler.nodes if not isinstance(node, apart)]
            return len(own), sum(node.get_read_write_buffers_sizes() for node in own)


@contextmanager
def _as_h100() -> Iterator[None]:
    """What inductor asks of the device and of Triton, answered."""

    def properties(*_: Any) -> DeviceProperties:
        return H100

    def layout(x: Tensor, *_: Any) -> torch.memory_format:
        """Of what cuDNN makes of `x`: its own."""
        last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        return last if x.is_contiguous(memory_format=last) else torch.contiguous_format

    exchanged: list[tuple[Any, str, Any]] = [
        (torch.cuda, "get_device_properties", properties),
        (CudaInterface, "get_device_properties", staticmethod(properties)),
        (CudaInterface, "get_compute_capability", staticmethod(lambda *_: 90)),
        (CudaInterface.Worker, "get_device_properties", staticmethod(properties)),
        (DeviceProperties, "create", properties),
        (scheduler, "has_triton", lambda *_: True),
        (torch._C, "_conv_determine_backend_memory_format", layout),
    ]
    with ExitStack() as stack:
        for place, name, replacement in exchanged:
            stack.enter_context(patch.object(place, name, replacement))
        yield
