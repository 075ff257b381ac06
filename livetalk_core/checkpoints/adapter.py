"""Adapters on a transformer: low-rank changes in PEFT's layout, and a projection of sound in the base's place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import CheckpointError

DOWN = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_A(?:\.default)?\.weight")
AUDIO_PROJECTION = "audio_proj."
PROJECTION = tuple(
    f"{layer}.{part}" for layer in ("proj1", "proj1_vf", "proj2", "proj3", "norm") for part in ("weight", "bias")
)
"""The weights of a projection of sound."""


@dataclass(frozen=True)
class Adapter:
    """Changes of weights: W + `scale` * up @ down for each layer, and whole weights that `replaced` brings by name."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float
    replaced: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lora: Mapping[str, Tensor], rank: int, alpha: float, projection: Mapping[str, Tensor]) -> "Adapter":
        """From a PEFT adapter's tensors and config, and the state dict of the audio projection that goes with it.

        `CheckpointError` where the tensors have another rank than the config, one of a pair is missing, or one of the
        projection's.
        """
        if lacking := [name for name in PROJECTION if name not in projection]:
            raise CheckpointError(
                f"the projection of sound that comes with the adapter lacks {lacking[0]}; needed is a whole one: "
                "download it again"
            )
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        halves = set[str]()
        for name in lora:
            if (match := DOWN.fullmatch(name)) is None:
                continue
            up = name.replace(".lora_A", ".lora_B")
            if up not in lora or lora[name].shape[0] != rank or lora[up].shape[1] != rank:
                raise CheckpointError(
                    f"the adapter's {name} has no {up} of rank {rank}, which its config says; download both again"
                )
            factors[f"{match['layer']}.weight"] = (lora[name], lora[up])
            halves |= {name, up}
        if alone := [name for name in lora if name not in halves]:
            raise CheckpointError(
                f"the adapter's {alone[0]} has no other half; needed are a lora_A and a lora_B of each layer, and "
                "nothing else: download it again"
            )
        return cls(factors, alpha / rank, {AUDIO_PROJECTION + name: tensor for name, tensor in projection.items()})

    def check(self, weights: Mapping[str, Tensor], made_for: str = "the model that it was made for") -> None:
        """Raise `CheckpointError` unless these weights have all layers that it changes, in its shapes."""
        sizes = {name: (up.shape[0], down.shape[1]) for name, (down, up) in self.factors.items()}
        sizes |= {name: tuple(tensor.shape) for name, tensor in self.replaced.items()}
        faults = [name for name, size in sizes.items() if name not in weights or tuple(weights[name].shape) != size]
        if faults:
            raise CheckpointError(
                f"the adapter changes {len(faults)} weights that this model has not, or in another shape ({faults[0]}, "
                f"...); needed is {made_for}"
            )

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The weight of this name as the adapter changes it, in its own dtype."""
        if name in self.replaced:
            return self.replaced[name].to(weight.dtype)
        if name not in self.factors:
            return weight
        down, up = (factor.float() for factor in self.factors[name])
        return (weight.float() + self.scale * (up @ down)).to(weight.dtype)
