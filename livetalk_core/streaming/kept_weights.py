"""What tells a transformer's weights from others, so that a worker that stays need not load them for each render."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import nano
from .fleet_engine import Ways


def weights_of(fields: Mapping[str, Any], device: torch.device) -> Any:
    """Where a set-up's weights are from, as their files are now, and what they are on the device.

    None for weights that are not kept: those that are sharded, streamed or compiled know the ranks of their set-up.
    """
    ways = Ways(*fields["ways"])
    if fields["sharded"] or ways.compiled or ways.memory is not None:
        return None
    sources = [fields[name] for name in ("model", "patch") if fields[name] is not None]
    stamps = [stamp for source in sources if source != nano.NAME for stamp in stamps_of(Path(source))]
    return sources, stamps, fields["dtype"], ways.fp8, str(device)


def stamps_of(source: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file of weights that a file, an index of shards or a folder stands for."""
    folder = source if source.is_dir() else source.parent if source.suffix == ".json" else None
    files = [source] if folder is None else sorted(folder.rglob("*.safetensors"))
    stats = [(file, file.stat()) for file in files]
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
