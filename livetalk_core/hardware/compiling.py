"""What torch.compile makes graphs of: one block of the transformer, for all of them, and the halves of the VAE.

The blocks differ in nothing but their weights, so that one graph, traced once, runs them all: the patch embedding and
the head around them are little work. Of the VAE, a chunk's first latent frame, the next ones and the rest differ in
shape or in what comes before them: three graphs each for the beginning of the decoder, for its end and for the encoder.

Another size takes others. PyTorch keeps eight of a function unless it is told, and refuses the next: too few for a
worker that stays up from render to render.
"""

import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..models.blocks import run_block
from ..models.vae import VAE
from .fused import has_triton

logger = logging.getLogger(__name__)

MOST_GRAPHS = 256
"""Of one function, for all sizes; PyTorch's own bound of what it keeps of one."""


def check_compiler(device: torch.device) -> None:
    """Raise `InputError` where torch.compile cannot compile for a device: what it makes for GPUs, Triton compiles."""
    if device.type == "cuda" and not has_triton():
        raise InputError(
            "--compile on a GPU needs Triton, which is not installed (PyTorch for Windows comes without; there it is "
            "the package triton-windows): install it, or leave --compile out"
        )


def compiled_block(backend: str | Callable[..., Any] = "inductor") -> Callable[..., Tensor]:
    """`run_block` compiled; its first call, which compiles it, says how long that took."""
    return announced(_compiled(run_block, backend))


def compile_vae(vae: VAE, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have encoder and decoder run compiled from now on; the same VAE is compiled once."""
    for half, methods in ((vae.encoder, ("forward",)), (vae.decoder, ("begin", "finish"))):
        for name in methods:
            if name not in vars(half):
                setattr(half, name, _compiled(getattr(half, name), backend))


def _compiled(work: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """One graph for each size that comes."""
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # from torch 2.13 on
        options["recompile_limit"] = MOST_GRAPHS
    else:
        torch._dynamo.config.recompile_limit = MOST_GRAPHS
    return torch.compile(work, **options)


def announced(compiled: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function; one line says how long its first call took."""
    begun = False

    def call(*arguments: Any) -> Tensor:
        nonlocal begun
        if begun:
            return compiled(*arguments)
        begun, start = True, time.perf_counter()
        out = compiled(*arguments)
        seconds = time.perf_counter() - start
        logger.warning("compiled a block in %.1f s; PyTorch keeps what it made for the next time", seconds)
        return out

    return call
