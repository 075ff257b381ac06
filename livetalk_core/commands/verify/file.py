"""A golden file, its rows, and what splits the models that are built from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import CheckpointError
from ...files import check_readable
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

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        super().__init__(found)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(f"{self._path} lacks {name!r}; needed is a whole golden file: get it again")


class Golden:
    """An opened golden file."""

    def __init__(self, path: Path) -> None:
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
        return self.tensors[f"io.{name}"]

    def find(self, name: str) -> Tensor | None:
        """An input that not every file has."""
        return self.tensors.get(f"io.{name}")

    def weights(self, prefix: str = "weights.") -> dict[str, Tensor]:
        """The weights under `prefix`, which is cut off."""
        return {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}

    def row(self, name: str, found: Tensor, tolerance: float) -> Row:
        """Compare with the output `name`."""
        wanted = self.io(name)
        if found.shape != wanted.shape:
            raise CheckpointError(f"{name} has shape {list(found.shape)}; the golden file has {list(wanted.shape)}")
        return Row(name, (found.double() - wanted.double()).abs().max().item(), tolerance)


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
    model.load_state_dict(weights)
    return model.eval()


def spoken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what FlashHead's files hold and its model never reads."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(("text_embedding.", "audio_emb."))}
