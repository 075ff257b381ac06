"""LoRA: low-rank changes of a frozen transformer's layers (Hu et al., arXiv 2106.09685), trained beside it.

The transformer stays as it is, in whatever dtype it lies, FP8 too; hooks add to each layer's result what its pair of
factors makes of what came in. So the trained network is the factors alone, and so are checkpoints and averages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.fp8 import LAYERS
from .adapt import Adaptation
from .chance import generator_of

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
    are right at the levels of these steps, and there alone they are changed.
    """

    rank: int = 16
    alpha: float = 16.0
    layers: str = CHANGED

    def __post_init__(self) -> None:
        super().__post_init__()
        self.networks = {"lora": LowRank(self.transformer, self.rank, self.alpha, self.layers)}
        self.frozen = {"transformer": self.transformer, "vae": self.vae}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("lora",)
