"""Memory that training the 14B model takes of each GPU: the real networks, split over processes that are not there.

    python -m benchmarks.training_memory

Weights are made on the meta device and split by the trainer's own `sharding.place` over a process group without peers,
so shares, their padding and the units that are gathered are what a run has. What a block keeps for the way back is
counted while PyTorch saves it, on shapes alone. Not counted: the allocator's losses, NCCL's buffers, and for stage 2
the VAE's activations, which have no gradient. A LoRA trains on one GPU: the frozen model in FP8 and its factors.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from livetalk_core.config import TransformerConfig
from livetalk_core.models.fp8 import quantize
from livetalk_core.presets import PRESETS
from livetalk_core.training import flow
from livetalk_core.training.flow import Condition, Denoiser
from livetalk_core.training.lora import LowRank
from livetalk_core.training.sharding import place

FLOAT32 = 4
PREFETCHED = 2
"""Blocks that are whole at once: the one that computes and the next."""
CONFIG = PRESETS["14b"].transformer
LATENT = (9, 96, 56)
"""Latent frames, rows and columns of 33 frames of 768x448."""


RANK = 32
"""Of `14b-lora.toml`."""
MATCHED = 5 + 4 + 1
"""Copies of a LoRA's factors in distribution matching: the student's, the critic's, the teacher's."""


class Stage(NamedTuple):
    """What a stage holds: networks with optimiser and average, with optimiser alone, and frozen ones."""

    name: str
    ranks: int
    averaged: int
    trained: int
    frozen: int


STAGES = (Stage("adapt", 8, 1, 0, 0), Stage("distill", 16, 1, 1, 1))


class Memory(NamedTuple):
    """Bytes of one process."""

    networks: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Fused(torch.autograd.Function):
    """Attention as a fused kernel keeps it: what comes in, the result and a number a row; on shapes alone."""

    @staticmethod
    def forward(ctx: Any, q_BLND: Tensor, k_BSND: Tensor, v_BSND: Tensor) -> Tensor:
        """See `attention.attend`."""
        result = torch.empty_like(q_BLND)
        ctx.save_for_backward(q_BLND, k_BSND, v_BSND, result, q_BLND.new_empty(q_BLND.shape[:3], dtype=torch.float32))
        return result


@contextmanager
def process_group(ranks: int) -> Iterator[None]:
    """One process of so many, of which the others do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def denoiser(config: TransformerConfig) -> Denoiser:
    """The transformer without numbers, computing in bfloat16."""
    with torch.device("meta"):
        network = Denoiser(config, dtype=torch.float32).requires_grad_(True)
    network.dtype = torch.bfloat16
    return network


def share_of(network: Denoiser, ranks: int) -> int:
    """Bytes of a process's share of the weights, in float32."""
    with process_group(ranks):
        place(network, torch.device("cpu"))
        weights = list(network.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights), "a weight is not split"
        return sum(weight.to_local().numel() for weight in weights if isinstance(weight, DTensor)) * FLOAT32


def kept_by(network: Denoiser, latent: tuple[int, int, int]) -> int:
    """Bytes that one evaluation keeps for the way back, each stored once; weights are not counted."""
    config = network.config
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in weights:
            kept[x.untyped_storage()._cdata] = x
        return x

    kernel = patch.object(flow, "attend", Fused.apply)
    with kernel, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        network(*_inputs(config, latent))
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def _inputs(config: TransformerConfig, latent: tuple[int, int, int]) -> tuple[Any, ...]:
    frames = 1 + 4 * (latent[0] - 1)
    with torch.device("meta"):
        condition = Condition(
            torch.empty(1, config.in_dim - 16, *latent),
            torch.empty(1, 257, config.clip_dim),
            torch.empty(1, config.text_len, config.text_dim),
            torch.empty(1, frames, 5, config.audio_blocks, config.audio_channels),
            torch.empty(1, 16, 2, *latent[1:]),
        )
        return torch.empty(1, 16, *latent), torch.empty(1), condition


def memory_of(stage: Stage, config: TransformerConfig = CONFIG, latent: tuple[int, int, int] = LATENT) -> Memory:
    """What one process of a stage takes: with AdamW, activations kept a block and computed again block by block."""
    network = denoiser(config)
    block = sum(weight.numel() for weight in network.blocks[0].parameters()) * FLOAT32
    share = share_of(network, stage.ranks)
    # Weights and gradients, two moments; the average; a frozen network has its weights alone.
    copies = 5 * stage.averaged + 4 * stage.trained + stage.frozen
    one = kept_by(denoiser(replace(config, num_layers=1)), latent)  # the last block, and what is around the blocks
    inputs = inputs_of(config, latent)
    gathered = PREFETCHED * block + block  # and the gradient of one, before it is shared out
    return Memory(copies * share, gathered, inputs + one)


def inputs_of(config: TransformerConfig, latent: tuple[int, int, int]) -> int:
    """Bytes of what comes into all blocks, which is kept where they are computed again."""
    tokens = latent[0] * latent[1] * latent[2] // config.geometry.patch**2
    return config.num_layers * tokens * config.dim * 2


def frozen(config: TransformerConfig) -> Denoiser:
    """The transformer without numbers in bfloat16, its blocks in FP8, as a LoRA is trained on it."""
    with torch.device("meta"):
        network = Denoiser(config, dtype=torch.bfloat16).requires_grad_(False)
    for block in network.blocks:
        quantize(block)
    return network


def lora_memory(
    rank: int = RANK,
    config: TransformerConfig = CONFIG,
    latent: tuple[int, int, int] = LATENT,
    copies: int = 5,
) -> Memory:
    """What a LoRA takes of one GPU: the frozen weights; `copies` of its factors: with gradients, two moments and
    averages they are 5. Of `MATCHED` ones the critic's have no average, and the teacher's are weights alone."""
    small = frozen(replace(config, num_layers=1))
    factors = LowRank(small, rank, rank).to("meta")
    count = sum(weight.numel() for weight in factors.parameters()) * config.num_layers
    network = frozen(config)
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    return Memory(weights + copies * count * FLOAT32, 0, inputs_of(config, latent) + kept_by(small, latent))


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| stage | GPUs | networks, GB | gathered | activations | together |\n|---|---|---|---|---|---|")
    rows = [(stage.name, stage.ranks, memory_of(stage)) for stage in STAGES]
    loras = [(f"lora, rank {RANK}, on FP8", 1, lora_memory()), ("the same, matched", 1, lora_memory(copies=MATCHED))]
    for name, ranks, memory in (*rows, *loras):
        figures = " | ".join(f"{part / 1e9:.1f}" for part in (*memory, memory.total))
        print(f"| {name} | {ranks} | {figures} |")


if __name__ == "__main__":
    main()
