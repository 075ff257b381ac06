"""LoRAs on the command line: named, checked before any weight is read, put beside the layers of what was loaded."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..checkpoints.header import fingerprint
from ..checkpoints.lora import check_lora, read_lora
from ..errors import InputError
from ..hardware.memory import meta_models
from ..parallel.patches import Patch
from ..presets import Preset


class Lora(NamedTuple):
    """A file of changes, and how strong they are: 1 as they were trained, 0 not at all."""

    path: Path
    strength: float = 1.0

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Lora":
        """`FILE [STRENGTH]`, as the option has it."""
        path, *rest = words
        try:
            (strength,) = map(float, rest or ("1",))
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            raise InputError(f"--lora {' '.join(words)}; a file and at most one number, its strength, are needed")
        return cls(Path(path), strength)

    @property
    def identity(self) -> tuple[str, float]:
        """What tells it from others."""
        return fingerprint([self.path]), self.strength

    def patches(self) -> list[Patch]:
        """What it adds to weights, as `parallel.patches` reads it."""
        factors = read_lora(self.path).factors
        return [Patch(name, self.strength, up, down) for name, (down, up) in factors.items()]


def check_loras(loras: Sequence[Lora], preset: Preset) -> None:
    """Raise `CheckpointError` unless all were made for a model of these widths; no weight of it is read."""
    weights = dict(meta_models(preset, torch.bfloat16)[0].named_parameters()) if loras else {}
    for lora in loras:
        check_lora(read_lora(lora.path), lora.path, weights)
