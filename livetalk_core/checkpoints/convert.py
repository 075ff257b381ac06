"""Conversion of weights: pickles to safetensors, shards to one file, bfloat16 to scaled FP8.

One tensor at a time: the header is written first, then each tensor goes from its mapped source to its place.
The file gets its name when it is whole.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError, OutputError
from ..files import MISSING, check_place, check_readable, fault_of, replacing, shown
from ..models.fp8 import FP8, is_quantized, scaled
from . import keys, kinds
from .adapted import as_one_file, is_adapter
from .header import DTYPES, Checkpoint, is_pickle, json_file, open_checkpoint
from .pickles import read_pickle

ENDING = ".safetensors"
FP8_MARKER = "scaled_fp8"
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_ALIGNMENT = 8

Transform = Callable[[str, Tensor], dict[str, Tensor]]
Progress = Callable[[float], None]
"""Told after each weight the share that is written, 0 to 1."""


def unheard(_: float) -> None:
    """The `Progress` of a caller that does not watch."""


def convert(source: Path, output: Path, fp8: bool = False, progress: Progress = unheard) -> Path:
    """Write the weights of `source` (a pickle, a safetensors file, an index or a folder) as one safetensors file.

    A folder with an adapter, as LeapTalk is published, becomes one file for ComfyUI's LoRA loader.

    With `fp8`, the large linear layers of the transformer's blocks become FP8 (e4m3) with one scale per
    tensor, in ComfyUI's scaled layout. Raises `CheckpointError` for the source, `OutputError` for the output.
    """
    _check_ending(output)
    check_place(output)
    if output.exists():
        raise OutputError(f"{output} exists; needed is a new file: choose another name, or delete it")
    check_readable(source, "the weights", "a file, or a folder of shards,", CheckpointError, folders=True)
    weights, metadata = _read(source)
    if not weights:
        raise CheckpointError(f"{shown(source)} holds no weights; a file of a model is needed: download it again")
    transform = _scaler(weights, source) if fp8 else _unchanged
    extra = {keys.prefix_of(weights) + FP8_MARKER: torch.zeros(2).to(FP8)} if fp8 else {}
    write_weights(output, weights, transform, extra, metadata | _config(weights, source), progress, new=True)
    return output


def _check_ending(output: Path) -> None:
    if not output.name:
        raise OutputError(f"{output} is a folder; needed is the name of a file that ends in {ENDING}")
    if output.suffix.lower() != ENDING:
        raise OutputError(
            f"{shown(output)} ends in {output.suffix or 'nothing'}; what is written is safetensors, and programs go by "
            f"the ending: name it {shown(output.with_suffix(ENDING))}"
        )


def _read(source: Path) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    if source.is_dir() and is_adapter(source):
        return as_one_file(source), {}
    return (read_pickle(source), {}) if is_pickle(source) else _read_safetensors(source)


def _read_safetensors(source: Path) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    checkpoint = open_checkpoint(source)
    checkpoint.header()
    return checkpoint, checkpoint.metadata


def _config(weights: Mapping[str, Tensor], source: Path) -> dict[str, str]:
    """The `config.json` beside the source, if it is this model's: what shapes do not tell stays known."""
    kind = kinds.identify(weights)
    config = (source if source.is_dir() else source.parent) / "config.json"
    taken = kind in (*kinds.TRANSFORMERS, kinds.LTX_VAE, kinds.WAV2VEC2) and fault_of(config) != MISSING
    return {"config": json.dumps(json_file(config))} if taken else {}


def _unchanged(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {name: tensor}


def _scaler(weights: Mapping[str, Tensor], source: Path) -> Transform:
    """Scales the weights that `is_quantized` names; a `CheckpointError` where there are none, or FP8 already."""
    prefix = keys.prefix_of(weights)
    chosen = {name for name in weights if is_quantized(name.removeprefix(prefix))}
    if not chosen or kinds.identify(weights) not in kinds.TRANSFORMERS:
        raise CheckpointError(f"{source} is {kinds.identify(weights)}; FP8 is for LiveTalk's video transformer alone")
    if any(keys.base_of_scale(name) is not None for name in weights):
        raise CheckpointError(f"{source} is FP8 already; needed are 16 or 32 bit weights: convert the original")

    def transform(name: str, tensor: Tensor) -> dict[str, Tensor]:
        return scaled_layer(name.removesuffix(".weight"), tensor) if name in chosen else {name: tensor}

    return transform


def scaled_layer(layer: str, weight: Tensor) -> dict[str, Tensor]:
    """An FP8 weight, and the float32 scale that multiplies it back: one for all of it, as ComfyUI reads it."""
    values, scale = scaled(weight, rows=False)
    return {f"{layer}.weight": values, f"{layer}.scale_weight": scale}


def write_weights(
    output: Path,
    weights: Mapping[str, Tensor],
    transform: Transform,
    extra: Mapping[str, Tensor] = MappingProxyType({}),
    metadata: Mapping[str, str] = MappingProxyType({}),
    progress: Progress = unheard,
    new: bool = False,
) -> None:
    """Stream `transform(name, weight)` of every weight, and `extra`, into a safetensors file; see `replacing`."""
    header, offsets, size = _layout({**_planned(weights, transform), **extra}, {**metadata, "format": "pt"})
    needed = f"needed are {size:,} bytes in a folder that can be written: make room, or choose another one"
    with replacing(output, needed, new) as temporary:
        _check_space(output.parent, size)
        with temporary.open("wb") as file:
            file.write(header)
            for number, name in enumerate(weights, 1):
                _put(file, offsets, transform(name, weights[name]))
                progress(number / len(weights))
            _put(file, offsets, extra)


def _planned(weights: Mapping[str, Tensor], transform: Transform) -> dict[str, Tensor]:
    """What will be written, on the meta device."""
    header = weights.header() if isinstance(weights, Checkpoint) else {n: t.to("meta") for n, t in weights.items()}
    return {name: planned for n, tensor in header.items() for name, planned in transform(n, tensor).items()}


def _layout(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> tuple[bytes, dict[str, int], int]:
    """A safetensors header, where each tensor goes, and the file's size; wide dtypes come first, for alignment."""
    entries: dict[str, object] = {"__metadata__": metadata}
    starts, end = {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        if name in entries:
            raise CheckpointError(
                f"a tensor is called {name}, which stands for something else in safetensors: rename it"
            )
        if tensor.dtype not in NAMES:
            raise CheckpointError(f"{name} is {tensor.dtype}; what can be written is {', '.join(NAMES.values())}")
        starts[name], end = end, end + prod(tensor.shape) * tensor.itemsize
        entries[name] = {
            "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [starts[name], end],
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}, len(header) + end


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{free:,} bytes are free in {folder}")


def _put(file: BinaryIO, offsets: Mapping[str, int], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        file.seek(offsets[name])
        file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
