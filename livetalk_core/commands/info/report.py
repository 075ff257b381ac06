"""What a checkpoint holds, what this machine can run, the memory needed before it is spent."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.folder import TRANSFORMER, find
from ...checkpoints.header import Checkpoint, open_checkpoint
from ...checkpoints.keys import transformer_name, unread
from ...checkpoints.kinds import TRANSFORMERS, identify
from ...checkpoints.load import transformer_part
from ...config import TransformerConfig
from ...errors import CheckpointError, InputError
from ...files import check_readable
from ...hardware.fit import CARDS, Fit, advice, fitting, usable
from ...hardware.machine import available_memory, describe
from ...hardware.memory import readable, text_encoder_bytes
from ...hardware.placement import Placement, Residence, residence
from ...presets import PRESETS, Preset, member_of

UNTOLD = ("num_heads", "text_len", "eps", "audio_blocks", "audio_channels", "repeats_portrait")
"""What of a config no weight's shape tells."""


def inspect(
    model: str,
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, int] | None = None,
    placement: Placement = Placement(),  # noqa: B008 - frozen
) -> list[str]:
    """A report, line by line, on a preset's name (`nano`, `14b`) or on a file or folder of weights."""
    lines = _machine()
    preset = PRESETS.get(model)
    if preset is None:
        checkpoint = _open(Path(model))
        lines += _contents(checkpoint)
        if identify(checkpoint) not in TRANSFORMERS:
            return lines
        preset = replace(_preset_of(checkpoint), name=Path(model).name)
    preset = preset.sized(size)
    return [*lines, *_model(preset), *_memory(preset, device, dtype, placement), *_streamed(preset, dtype, placement)]


def _preset_of(checkpoint: Checkpoint) -> Preset:
    """The preset whose transformer has the shapes in a file, else its family member's around the file's transformer."""
    config = transformer_part(checkpoint.path).config
    if "num_heads" not in checkpoint.config(beside=True):
        for preset in PRESETS.values():
            if _told_by_shapes(preset.transformer) == _told_by_shapes(config):
                return preset
    same = (preset for preset in PRESETS.values() if preset.transformer == config)
    return next(same, replace(member_of(config), transformer=config))


def _told_by_shapes(config: TransformerConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in UNTOLD}


def _machine() -> list[str]:
    machine = describe()
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    ram = f"{readable(machine['ram_bytes'])} RAM"
    return [
        f"machine: {machine['processor']}, {machine['cores']} cores, {ram}, {gpus}",
        f"         torch {machine['torch']}, Python {machine['python']}, LiveTalk {machine['livetalk']}",
    ]


def _open(path: Path) -> Checkpoint:
    needed = f"a file or folder of weights, or one of {', '.join(PRESETS)},"
    check_readable(path, "the model", needed, CheckpointError, folders=True)
    published = path.is_dir() and any(file for pattern in TRANSFORMER.patterns for file in path.glob(pattern))
    return open_checkpoint(find(path, TRANSFORMER) if published else path)


def _contents(checkpoint: Checkpoint) -> list[str]:
    header = checkpoint.header()
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in header.values())
    size = sum(tensor.numel() * tensor.itemsize for tensor in header.values())
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
    return [
        f"file:    {identify(checkpoint)}: {len(header)} tensors ({kinds}), {readable(size)} in {checkpoint.path}",
        *_unread(checkpoint),
    ]


def _unread(checkpoint: Checkpoint) -> list[str]:
    """What the file holds and its model never reads, by the first word of the names."""
    parts = Counter(transformer_name(name).partition(".")[0] for name in unread(checkpoint))
    names = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items()))
    return [f"         never read: {names}"] if names and identify(checkpoint) in TRANSFORMERS else []


def _model(preset: Preset) -> list[str]:
    config = preset.transformer
    return [
        f"model:   {preset.name}: {config.num_layers} blocks, {config.dim} wide, {config.num_heads} heads; "
        f"{preset.stream.width}x{preset.stream.height} px, chunks of {preset.stream.frame_num} frames"
    ]


def _memory(preset: Preset, device: torch.device, dtype: torch.dtype, placement: Placement) -> list[str]:
    """Each part's need, and whether the sum fits: weights and context stay, the largest working set comes on top."""
    needed = residence(preset, dtype, Placement(placement.fp8))
    free, text = available_memory(device), text_encoder_bytes(preset, dtype)
    verdict = "fits" if needed.total <= free else advice(preset, dtype, free)
    before = [f"  {'text encoder, before':<22}{readable(text):>12}; on the CPU where that is more than there is"]
    return [
        f"memory in {placement.dtype_name(dtype)}, counted, with a margin for the kernels' own workspaces:",
        *(f"  {part:<22}{readable(size):>12}" for part, size in needed.needed.items()),
        f"  {'at once':<22}{readable(needed.total):>12}; {readable(free)} are free on {device}: {verdict}",
        *(before if text else []),
    ]


def _streamed(preset: Preset, dtype: torch.dtype, placement: Placement) -> list[str]:
    """What `--memory` comes to, or else which options fit which card."""
    if placement.memory:
        choices = [Placement(fp8, placement.memory) for fp8 in (False, True)]
        lines = [f"  {readable(placement.memory):<12}{_kept(preset, dtype, choice)}" for choice in choices]
        return ["with --memory, blocks that stay on the device, the others streamed, and bytes there at once:", *lines]
    return ["on cards of so many GB, the options that fit:", *(f"  {row}" for row in cards(preset, dtype))]


def cards(preset: Preset, dtype: torch.dtype) -> list[str]:
    """A line for each size of card: the options, blocks that stay, bytes at once, where the text encoder runs.

    And what the other precision, with FP8 or without, comes to there.
    """
    rows = []
    for card in CARDS:
        fit = fitting(preset, dtype, usable(card))
        if fit is None:
            rows.append(f"{card:>4}  does not fit: a smaller --size")
            continue
        kept, where = fit.residence, ", text encoder on the CPU" if fit.text_on_cpu else ""
        rows.append(
            f"{card:>4}  {fit.flags:<22}{kept.blocks:>3} of {kept.of} blocks stay, {readable(kept.total)}{where}; "
            + _otherwise(fitting(preset, dtype, usable(card), not fit.placement.fp8), not fit.placement.fp8)
        )
    return rows


def _otherwise(fit: Fit | None, fp8: bool) -> str:
    """What the precision that was not chosen comes to."""
    words = "with --fp8" if fp8 else "without"
    return f"{words}: {'nothing fits' if fit is None else _counted(fit.residence)}"


def _counted(residence: Residence) -> str:
    return f"{residence.blocks} of {residence.of}, {readable(residence.total)}"


def _kept(preset: Preset, dtype: torch.dtype, placement: Placement) -> str:
    try:
        needed = residence(preset, dtype, placement)
    except InputError as error:
        return str(error)
    return f"{_counted(needed):<24} in {placement.dtype_name(dtype)}"
