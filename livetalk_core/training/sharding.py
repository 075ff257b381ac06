"""Networks split over processes: FSDP2, a unit for each of the transformer's blocks and one for the rest.

A unit's weights are whole only while it computes, so whatever reads a block's weights has to be called on the block
(`BaseBlock.evaluate`, `forward`). Weights are moved to the device and split block by block: a process never holds more
of a mapped file than one block on top of its own share.
"""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ..errors import CheckpointError
from ..models.blocks import BaseBlock

SHARDS = "shards"
"""The folder of a checkpoint that holds what several processes wrote."""
DESCRIBED_BY = {
    *(f"torch.distributed.checkpoint.metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
        "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    "torch.distributed.checkpoint.filesystem._StorageInfo", "torch.Size", "torch.serialization._get_layout",
    "pathlib.PosixPath", "pathlib.WindowsPath",
}  # fmt: skip
"""What the description of shared tensors names, beside dtypes. Objects other than tensors, which PyTorch would read
with all their code, are not among it."""


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def place(network: nn.Module, device: torch.device) -> None:
    """Move a network to the device in float32; of several processes, each keeps its share of the weights.

    One without blocks that is not trained, such as the VAE, is small, and whole on every process.
    """
    blocks = [layer for layer in network.modules() if isinstance(layer, BaseBlock)]
    if processes() == 1:
        network.to(device)
        return
    if not blocks and not any(weight.requires_grad for weight in network.parameters()):
        network.to(device, torch.float32)
        return
    mesh = init_device_mesh(device.type, (processes(),))
    for block in blocks:
        _split(block, mesh, device)
        register_fsdp_forward_method(block, "evaluate")
    _split(network, mesh, device)


def _split(layer: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    """Make a layer a unit, but for those in it that are units already."""
    for part in layer.modules():
        for name, weight in part.named_parameters(recurse=False):
            if not isinstance(weight, DTensor):
                moved = weight.detach().to(weight.device if weight.is_meta else device, torch.float32)
                part.register_parameter(name, nn.Parameter(moved, requires_grad=weight.requires_grad))
    fully_shard(layer, mesh=mesh)


def clip(weights: Iterable[nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of at most `most`; the norm before, over all processes."""
    norm = torch.nn.utils.clip_grad_norm_(weights, most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def averaged_over_processes(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The mean of each value over all processes."""
    if processes() == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, (total / processes()).tolist(), strict=True))


class _Description(pickle.Unpickler):
    """Reads the description of shared tensors, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for; a `CheckpointError` where no description of tensors has it."""
        known = f"{module}.{name}" in DESCRIBED_BY or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        )
        if not known:
            raise CheckpointError(f"names {module}.{name}, which no list of tensors does: train from another run")
        return super().find_class(module, name)


def reader_of(place: Path) -> dcp.FileSystemReader:
    """What reads a folder that several processes wrote. PyTorch describes it in pickles: they are looked through first.

    Raises `CheckpointError` for a description that is damaged, or of anything but tensors.
    """
    for path in place.glob("*.metadata"):
        try:
            with path.open("rb") as file:
                _Description(file).load()
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        except Exception as error:  # a damaged pickle may raise anything
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}); train from another step") from None
    return dcp.FileSystemReader(place)


def read_whole(place: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors on the CPU of those that several processes wrote under names with a prefix, which is taken off."""
    reader = reader_of(place)
    sizes: Any = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in sizes.items()
        if name.startswith(prefix)
    }
    state: dict[str, Any] = dict(tensors)
    dcp.load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): values for name, values in tensors.items()}
