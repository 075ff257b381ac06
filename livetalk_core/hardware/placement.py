"""How a transformer's weights are kept: in FP8 or not, all of them on the device or some blocks in main memory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checkpoints.load import open_model
from ..checkpoints.model import Model
from ..errors import InputError
from ..models import operations
from ..models.fp8 import quantize
from ..models.transformer import Transformer
from ..parallel.imagined import rank_memory
from ..parallel.offload import staging_bytes, stream_weights, streamed_layers
from ..presets import Preset
from .kernels import fp8_operations
from .machine import available_memory
from .memory import memory_of, meta_models, readable, resident, text_encoder_bytes, with_layers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """`fp8`: the blocks' linear layers are quantised. `memory`: most bytes on the device; blocks beyond it stream.

    Without `memory` it is all that is free on a GPU.
    """

    fp8: bool = False
    memory: int | None = None

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return self != Placement()

    def dtype_name(self, dtype: torch.dtype) -> str:
        """What the weights are: the same for all placements that give the same frames."""
        return f"{str(dtype).removeprefix('torch.')}{', blocks in FP8' if self.fp8 else ''}"


class Residence(NamedTuple):
    """How many blocks are on the device throughout, of how many; each part's bytes, and all bytes there at once."""

    blocks: int
    of: int
    needed: dict[str, int]
    total: int

    @property
    def streamed(self) -> list[int]:
        """The blocks that are in main memory, spread evenly: while the others compute, theirs are on the way."""
        count = self.of - self.blocks
        return [index for index in range(self.of) if (index + 1) * count // self.of > index * count // self.of]


def residence(
    preset: Preset, dtype: torch.dtype, placement: Placement, mesh: tuple[int, int] | None = None
) -> Residence:
    """What `placement` means for a preset, at the size of its stream; an `InputError` where it is not enough.

    On one device, or on each of a mesh of (ulysses, ring).
    """
    height, width, count = preset.stream.height, preset.stream.width, preset.transformer.num_layers
    if mesh is None:
        needed = memory_of(preset, height, width, dtype, placement.fp8)
    else:
        needed = rank_memory(preset, height, width, dtype, *mesh, placement.fp8)
    unstreamed = resident(needed)
    if placement.memory is None or unstreamed <= placement.memory:
        return Residence(count, count, needed, unstreamed)
    layers = streamed_layers([meta_models(with_layers(preset, 1), dtype, placement.fp8)[0].blocks[0]])
    block = sum(layer.weight.nbytes for layer in layers)
    least = unstreamed - count * block + staging_bytes(layers)
    kept = (placement.memory - least) // block
    if kept < 0:
        less = "a smaller --size" if placement.fp8 else "--fp8, or a smaller --size"
        each = "" if mesh in (None, (1, 1)) else f" on each of {mesh[0] * mesh[1]} devices"
        raise InputError(
            f"--memory {readable(placement.memory)} (or what is free); {preset.name} at {width}x{height} needs at "
            f"least {readable(least)}{each}, with all blocks streamed: give more, or {less}"
        )
    return Residence(kept, count, needed, least + kept * block)


def place(transformer: Transformer, device: torch.device, fp8: bool, streamed: Sequence[int] = ()) -> Transformer:
    """Quantise a transformer's blocks, leave those of `streamed` in main memory, and put all else on `device`.

    It may lie in main memory, mapped from its file: one block at a time is on the device before it is FP8.
    """
    for index, block in enumerate(transformer.blocks):
        if fp8:
            quantize(block.to(device))
        block.to("cpu" if index in streamed else device)
    if streamed:
        stream_weights([transformer.blocks[index] for index in streamed], device)
    placed = transformer.to(device)
    torch.cuda.empty_cache()  # of blocks that were there before they were quantised
    return placed


def layers_of(placement: Placement, device: torch.device) -> Any:
    """The `operations` that a transformer is built of."""
    return fp8_operations(device) if placement.fp8 else operations


def open_placed(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
    size: tuple[int, int] | None = None,
    patch: Path | None = None,
    resident: bool = False,
) -> Model:
    """As `open_model`, its transformer placed; `size` is (height, width) in pixels if not the model's.

    On a GPU, `placement.memory` is what is free there unless it says less: blocks beyond it are streamed, and a text
    encoder that is larger runs on the CPU. Raises `InputError`, before any weight is read, where even that is too much,
    or where blocks are streamed although it is to be `resident`.
    """
    if device.type == "cpu" and not placement:
        return open_model(name, device, dtype, patch)
    layers = layers_of(placement, device)
    model = open_model(name, device, dtype, patch, layers, home="cpu")
    preset, budget = model.preset.sized(size), placement.memory
    if device.type != "cpu":
        free = available_memory(device)
        budget = free if budget is None else min(budget, free)
    streamed = residence(preset, dtype, Placement(placement.fp8, budget)).streamed
    if resident and streamed:
        raise InputError(
            f"{len(streamed)} blocks of {preset.name} would have to be streamed into what is free on {device}, and "
            "--compile makes a graph of blocks that stay: give --fp8 or a smaller --size, or leave --compile out"
        )
    if budget is not None and text_encoder_bytes(preset, dtype) > budget:
        logger.warning("the text encoder does not fit on %s: it runs on the CPU, once, slowly", device)
        model = open_model(name, device, dtype, patch, layers, home="cpu", text_home="cpu")
    return replace(model, load_transformer=lambda: place(model.load_transformer(), device, placement.fp8, streamed))
