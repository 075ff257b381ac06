"""A golden file, its rows, and what splits the models that are built from it."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...checkpoints import keys
from ...errors import CheckpointError
from ...files import check_readable
from ...hardware.compiling import compile_vae, compiled_block
from ...models.ltx_vae import LTXVAE
from ...models.transformer import Transformer
from ...models.vae import VAE
from ...parallel.ltx_vae import SplitLTXVAE
from ...parallel.mesh import Mesh
from ...parallel.sequence import split_sequence
from ...parallel.vae import SplitVAE


class Row(NamedTuple):
    """One compared output: its largest absolute error, the most that is allowed, and how the model was split."""

    name: str
    error: float
    tolerance: float
    split: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not)."""
        return self.error <= self.tolerance


class _Contents(dict[str, Any]):
    """What a golden file holds, by name; a `CheckpointError` for what it lacks."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(f"{self._path} lacks {name!r}; needed is a whole golden file: get it again")


class Where(NamedTuple):
    """What the models are checked on."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32


LOSSY_TOLERANCE = 0.1
"""Root-mean-square error allowed of 16 bits, relative to the output: the loop's chunks are within 5 %."""


class Golden:
    """An opened golden file; inputs and weights come on the device, weights in the dtype, that are to be checked.

    Weights of the audio encoder are float32, as they are in use.
    """

    def __init__(self, path: Path, where: Where = Where()) -> None:  # noqa: B008 - frozen
        self.where = where
        check_readable(path, "the golden file", "a file of numbers of the reference", CheckpointError)
        try:
            with safe_open(path, "pt") as file:
                self.metadata = _Contents(path, {k: json.loads(v) for k, v in (file.metadata() or {}).items()})
                self.tensors = _Contents(path, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{path} is no golden file ({error}); needed: safetensors with JSON metadata"
            ) from None

    def io(self, name: str) -> Tensor:
        """An input or output."""
        return self.tensors[f"io.{name}"].to(self.where.device)

    def find(self, name: str) -> Tensor | None:
        """An input that not every file has."""
        return self.io(name) if f"io.{name}" in self.tensors else None

    def weights(self, prefix: str = "weights.") -> dict[str, Tensor]:
        """The weights under `prefix`, which is cut off."""
        dtype = torch.float32 if self.metadata["kind"] == "audio" else self.where.dtype
        weights = {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}
        return {key: tensor.to(self.where.device, dtype) for key, tensor in weights.items()}

    def row(self, name: str, computed: Tensor, tolerance: float) -> Row:
        """Compare with the output `name`: every number in float32, in 16 bits all of them together."""
        golden, computed = self.tensors[f"io.{name}"].double(), computed.double().cpu()
        if computed.shape != golden.shape:
            raise CheckpointError(f"{name} has shape {list(computed.shape)}; the golden file has {list(golden.shape)}")
        if self.where.dtype == torch.float32:
            return Row(name, (computed - golden).abs().max().item(), tolerance)
        return Row(name, ((computed - golden).norm() / golden.norm().clamp_min(1e-30)).item(), LOSSY_TOLERANCE)


class Splitter(Protocol):
    """Prepares the built models before they are run."""

    def transformer(self, model: Transformer) -> Transformer:
        """The transformer to run."""
        ...

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """The VAE to run."""
        ...

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """The VAE to run."""
        ...


class Whole:
    """Everything in this process."""

    def transformer(self, model: Transformer) -> Transformer:
        """The model itself."""
        return model

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """The model itself."""
        return model

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """The model itself."""
        return model


class Compiled(Whole):
    """What `--compile` has torch.compile make graphs of, on any device: blocks, and Wan's VAE.

    Of one golden file: its graphs take the place of those that were made before.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        torch.compiler.reset()
        self.backend = backend

    def transformer(self, model: Transformer) -> Transformer:
        """The model, its blocks compiled."""
        setattr(model, "evaluate", partial(model.evaluate, run_block=compiled_block(self.backend)))  # noqa: B010
        return model

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """The model, compiled."""
        compile_vae(model, self.backend)
        return model


class Shares:
    """This rank's share of all ranks' work."""

    def __init__(self, ulysses: int | None) -> None:
        self.ulysses = ulysses

    def transformer(self, model: Transformer) -> Transformer:
        """Split over the tokens."""
        return split_sequence(model, Mesh.of(model.config.num_heads, self.ulysses))

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """Split over the rows."""
        return SplitVAE(model)

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """Split over the rows."""
        return SplitLTXVAE(model)


def loaded(model: nn.Module, weights: dict[str, Tensor]) -> Any:
    """The model of these weights, wherever they are and of whatever dtype."""
    model.load_state_dict(weights, assign=True)
    if hasattr(model, "dtype"):
        setattr(model, "dtype", next(model.parameters()).dtype)  # noqa: B010 - of some models
    return model.eval()


def spoken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what FlashHead's files hold and its model never reads."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(keys.UNREAD)}
