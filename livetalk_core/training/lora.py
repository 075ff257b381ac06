"""LoRA: low-rank changes of a frozen transformer's layers (Hu et al., arXiv 2106.09685), trained beside it.

The transformer stays as it is, in whatever dtype it lies, FP8 too; hooks add to each layer's result what its pair of
factors makes of what came in. So the trained network is the factors alone, and so are checkpoints and averages.

There are two ways to learn a person. `Likeness` matches the flow on takes of theirs. `MatchedLikeness` begins with what
that gave and has the stream's few steps go where the person's takes are dense (`distill`): teacher, critic and student
are three LoRAs beside one transformer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.lora import read_lora
from ..errors import CheckpointError, InputError
from ..models.fp8 import LAYERS
from .adapt import Adaptation
from .chance import generator_of
from .distill import Distillation

CHANGED = rf"blocks\.\d+\.(?:{LAYERS})"
"""The layers that get factors where the configuration names no others: all linear ones of all blocks."""


class Factors(nn.Module):
    """A layer's change: up @ down, at first nothing."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, chance: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        bound = layer.in_features**-0.5
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=chance)
        self.down, self.up = nn.Parameter(down), nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of `x`."""
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype)) * self.scale


class LowRank(nn.Module):
    """The factors of all layers of a transformer whose names match `layers`; from now on it computes with them.

    `InputError` where no layer's name does.
    """

    def __init__(self, transformer: nn.Module, rank: int, alpha: float, layers: str = CHANGED) -> None:
        super().__init__()
        if rank < 1 or alpha <= 0:
            raise InputError(f"rank {rank}, alpha {alpha}; a rank of at least 1 and an alpha above 0 are needed")
        self.alpha = alpha
        chance = generator_of("lora")
        for name, layer in transformer.named_modules():
            if isinstance(layer, nn.Linear) and re.fullmatch(layers, name):
                factors = Factors(layer, rank, alpha / rank, chance)
                self.add_module(name.replace(".", ":"), factors)
                layer.register_forward_hook(_adding(factors))
        if not any(True for _ in self.children()):
            raise InputError(f"layers {layers!r} match no layer of this model; by default they are {CHANGED!r}")

    def forward(self) -> None:
        """Nothing: the layers that the factors belong to call them."""

    @torch.no_grad()
    def take(self, path: Path) -> None:
        """Begin with a file's factors. `CheckpointError` unless they are of this rank, and of these layers alone."""
        pairs = {name.removesuffix(".weight"): pair for name, pair in read_lora(path).factors.items()}
        own = {name.replace(":", "."): part for name, part in self.named_children() if isinstance(part, Factors)}
        sizes = {name: (part.down.shape, part.up.shape) for name, part in own.items()}
        if sizes != {name: (down.shape, up.shape) for name, (down, up) in pairs.items()}:
            rank = len(next(iter(own.values())).down)
            raise CheckpointError(
                f"{path} has {len(pairs)} layers of rank {len(next(iter(pairs.values()))[0])}, the configuration "
                f"{len(own)} of rank {rank}: give the rank and the layers that it was trained with, of the same model"
            )
        for name, (down, up) in pairs.items():
            own[name].down.copy_(down)
            own[name].up.copy_(up.float() / own[name].scale)


def _adding(factors: Factors) -> Any:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + factors(inputs[0])

    return hook


def pairs_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The weights of a `LowRank` as (down, up), by the names of the layers."""
    layers = {key.rpartition(".")[0]: None for key in weights}
    return {layer.replace(":", "."): (weights[f"{layer}.down"], weights[f"{layer}.up"]) for layer in layers}


@dataclass
class Likeness(Adaptation):
    """Teaches `transformer`, which stays as it is, one person's looks by a LoRA of a `rank`.

    It learns as stage 1 does, but where `levels` are given at those alone: weights that were distilled for a few steps
    are right at the levels of these steps, and there alone they are changed. At `every_level` it can teach
    (`MatchedLikeness`).
    """

    rank: int = 16
    alpha: float = 16.0
    layers: str = CHANGED
    every_level: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.networks = {"lora": LowRank(self.transformer, self.rank, self.alpha, self.layers)}
        self.frozen = {"transformer": self.transformer, "vae": self.vae}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("lora",)


@dataclass
class MatchedLikeness(Distillation):
    """Teaches one person's looks to the few steps of a stream, by distribution matching: rollouts of `student` are led
    to where `teacher` has takes of the person, away from where `critic` sees them now.

    The three are twins (`Denoiser.twin`): one transformer, which stays as it is, with a LoRA each. All begin with the
    one in the file `taught_by`, which matched the flow on the person's takes at every noise level; the teacher's stays.
    """

    taught_by: Path | str = ""
    rank: int = 16
    alpha: float = 16.0
    layers: str = CHANGED
    learner: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        twins = {"lora": self.student, "critic": self.critic, "teacher": self.teacher}
        loras = {name: LowRank(twin, self.rank, self.alpha, self.layers) for name, twin in twins.items()}
        for lora in loras.values():
            lora.take(Path(self.taught_by))
        held = loras.pop("teacher").requires_grad_(False)
        self.networks = dict(loras)
        self.frozen = {**self.frozen, "student": self.student, "critic": self.critic, "teacher_lora": held}
