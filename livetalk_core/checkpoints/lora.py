"""LoRA files as ComfyUI's stock loader has them: `diffusion_model.LAYER.lora_A.weight`, `.lora_B.weight`, `.alpha`.

Kohya's names of the two factors, `lora_down` and `lora_up`, are read too. A layer's weight becomes
W + strength * alpha / rank * B @ A.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import replacing
from .adapter import Adapter
from .header import open_checkpoint

PREFIX = "diffusion_model."
PREFIXES = r"(?:diffusion_model\.|transformer\.)?"
FACTOR = re.compile(PREFIXES + r"(?P<layer>.+)\.(?P<kind>lora_A|lora_B|lora_down|lora_up)\.weight")
ALPHA = re.compile(PREFIXES + r"(?P<layer>.+)\.alpha")
DOWN = ("lora_A", "lora_down")


def write_lora(
    path: Path, factors: Mapping[str, tuple[Tensor, Tensor]], alpha: float, about: Mapping[str, str]
) -> None:
    """Write pairs (down [r,in], up [out,r]) by the names of their layers, in float16; `about` goes into the header."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in factors.items():
        parts = {"lora_A.weight": down, "lora_B.weight": up, "alpha": torch.tensor(float(alpha))}
        tensors |= {f"{PREFIX}{layer}.{part}": values.detach().half().cpu() for part, values in parts.items()}
    with replacing(path) as temporary:
        save_file({name: values.contiguous() for name, values in tensors.items()}, temporary, dict(about))


def read_lora(path: Path) -> Adapter:
    """The changes that a LoRA makes, by the names of our weights. `CheckpointError` for a file of another kind."""
    checkpoint = open_checkpoint(path)
    factors: dict[str, dict[bool, Tensor]] = {}
    alphas: dict[str, float] = {}
    foreign: list[str] = []
    for name in checkpoint:
        if factor := FACTOR.fullmatch(name):
            factors.setdefault(factor["layer"], {})[factor["kind"] in DOWN] = checkpoint[name]
        elif alpha := ALPHA.fullmatch(name):
            alphas[alpha["layer"]] = float(checkpoint[name])
        else:
            foreign.append(name)
    halves = [layer for layer, pair in factors.items() if len(pair) < 2 or pair[True].shape[0] != pair[False].shape[1]]
    if foreign or halves or not factors:
        what = (foreign or halves or ["nothing"])[0]
        raise CheckpointError(
            f"{path} is no LoRA that is read here (it holds {what}); needed are pairs lora_A and lora_B of one rank"
        )
    pairs = {
        f"{layer}.weight": (pair[True], pair[False] * (alphas.get(layer, len(pair[True])) / len(pair[True])))
        for layer, pair in factors.items()
    }
    return Adapter(pairs, 1.0)


def check_lora(adapter: Adapter, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` unless the file's changes fit a model's weights."""
    try:
        adapter.check(weights)
    except CheckpointError as error:
        raise CheckpointError(f"the LoRA {path} does not fit: {error}") from None


@torch.no_grad()
def add_lora(transformer: nn.Module, path: Path, strength: float = 1.0) -> None:
    """Change a transformer's weights by a LoRA. `CheckpointError` where it was made for another model."""
    adapter, weights = read_lora(path), dict(transformer.named_parameters())
    check_lora(adapter, path, weights)
    for name, (down, up) in adapter.factors.items():
        weight = weights[name]
        change = strength * (up.float() @ down.float())
        weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
