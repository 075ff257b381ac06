"""What torch.compile makes graphs of: one block of the transformer, for all of them, and the halves of the VAE.

The blocks differ in nothing but their weights, so that one graph, traced once, runs them all: the patch embedding and
the head around them are little work. Of the VAE, a chunk's first latent frame, the next ones and the rest differ in
shape or in what comes before them: three graphs each for the beginning of the decoder, for its end and for the encoder.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..models.blocks import run_block
from ..models.vae import VAE

logger = logging.getLogger(__name__)


def compiled_block(backend: str | Callable[..., Any] = "inductor") -> Callable[..., Tensor]:
    """`run_block` compiled; its first call, which compiles it, says how long that took."""
    return announced(torch.compile(run_block, fullgraph=True, dynamic=False, backend=backend))


def compile_vae(vae: VAE, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have encoder and decoder run compiled from now on; the same VAE is compiled once."""
    for half, methods in ((vae.encoder, ("forward",)), (vae.decoder, ("begin", "finish"))):
        for name in methods:
            if name not in vars(half):
                compiled = torch.compile(getattr(half, name), fullgraph=True, dynamic=False, backend=backend)
                setattr(half, name, compiled)


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
