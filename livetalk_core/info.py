"""What a checkpoint holds, what this machine can run, and the memory needed, before it is spent."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from .checkpoints.configs import LIVETALK, identify, transformer_config
from .checkpoints.header import Checkpoint, open_checkpoint
from .checkpoints.keys import transformer as transformer_keys
from .checkpoints.load import TRANSFORMER, find
from .config import PRESETS, Preset
from .machine import available_memory, describe
from .memory import memory_of, resident


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def inspect(model: str, device: torch.device, dtype: torch.dtype, size: tuple[int, int] | None) -> list[str]:
    """A report, line by line, on a preset's name (`nano`, `14b`) or on a file or folder of weights."""
    lines = _machine()
    preset = PRESETS.get(model)
    if preset is None:
        checkpoint = _open(Path(model))
        lines += _contents(checkpoint)
        if identify(checkpoint) != LIVETALK:
            return lines
        header = transformer_keys(checkpoint.header())
        preset = replace(PRESETS["14b"], name=Path(model).name, transformer=transformer_config(checkpoint, header))
    height, width = size or (preset.stream.height, preset.stream.width)
    preset = replace(preset, stream=replace(preset.stream, height=height, width=width))
    return [*lines, *_model(preset), *_memory(preset, device, dtype)]


def _machine() -> list[str]:
    machine = describe()
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    ram = f"{readable(machine['ram_bytes'])} RAM"
    return [
        f"machine: {machine['processor']}, {machine['cores']} cores, {ram}, {gpus}",
        f"         torch {machine['torch']}, Python {machine['python']}, LiveTalk {machine['livetalk']}",
    ]


def _open(path: Path) -> Checkpoint:
    published = path.is_dir() and any(path.glob(pattern) for pattern in TRANSFORMER.patterns)
    return open_checkpoint(find(path, TRANSFORMER) if published else path)


def _contents(checkpoint: Checkpoint) -> list[str]:
    header = checkpoint.header()
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in header.values())
    size = sum(tensor.numel() * tensor.itemsize for tensor in header.values())
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
    return [f"file:    {identify(checkpoint)}: {len(header)} tensors ({kinds}), {readable(size)} in {checkpoint.path}"]


def _model(preset: Preset) -> list[str]:
    config = preset.transformer
    return [
        f"model:   {preset.name}: {config.num_layers} blocks, {config.dim} wide, {config.num_heads} heads; "
        f"{preset.stream.width}x{preset.stream.height} px, chunks of {preset.stream.frame_num} frames"
    ]


def _memory(preset: Preset, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Each part's need, and whether the sum fits: weights and context stay, the largest working set comes on top."""
    needed = memory_of(preset, preset.stream.height, preset.stream.width, dtype)
    total, free = resident(needed), available_memory(device)
    name = str(dtype).removeprefix("torch.")
    verdict = (
        "fits" if total <= free else "does not fit: a smaller --size, FP8 weights (convert --fp8) or nano need less"
    )
    return [
        f"memory in {name}, counted, without the kernels' own workspaces:",
        *(f"  {part:<20}{readable(size):>12}" for part, size in needed.items()),
        f"  {'at once':<20}{readable(total):>12}; {readable(free)} are free on {device}: {verdict}",
    ]
