"""A published reference implementation, run as it is from a checkout: what `bench --against` measures ours by.

`flashtalk.py` and `flashhead.py` say what of each is called. Attention is always the function that ours runs with.
"""

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

from ...config import VAEConfig
from ...errors import InputError
from ...models.attention import AttentionFunction
from ...models.vae import LATENT_CHANNELS, TEMPORAL_LEVELS, WIDTHS
from ...presets import Preset
from ...sampling.chunk import NoiseSource
from ...shapes import VideoShape
from .stand_ins import PACKAGES, quiet, standing_in


class Networks(NamedTuple):
    """The reference's transformer and VAE; the VAE's own network is its `model`."""

    transformer: Any
    vae: Any


class Weights(NamedTuple):
    """A reference's weights under the names that ours have; they share its memory."""

    transformer: dict[str, Tensor]
    vae: dict[str, Tensor]


class Inputs(NamedTuple):
    """What a stream is made of: the portrait, of the stream's size, and text and image tokens where they are read."""

    image: Image.Image
    text: Tensor | None
    clip: Tensor | None


class MetaInputs(NamedTuple):
    """What a chunk's parts are given, on the meta device: latent, last frames [1,3,k,H,W] and audio windows."""

    latent: Tensor
    tail: Tensor
    windows: Tensor

    @classmethod
    def of(cls, preset: Preset, dtype: torch.dtype) -> "MetaInputs":
        """Those of a preset's chunks."""
        stream, widths = preset.stream, preset.transformer
        shape = VideoShape(stream.frame_num, stream.height, stream.width).latent(preset.geometry)
        windows = (1, stream.frame_num, widths.audio_window, widths.audio_blocks, widths.audio_channels)
        tail = (1, 3, stream.motion_frames, stream.height, stream.width)
        shapes = ((widths.out_dim, *shape), tail, windows)
        return cls(*(torch.empty(each, device="meta", dtype=dtype) for each in shapes))


class Reference(ABC):
    """A checkout's modules, imported. Raises `InputError` where `path` holds no checkout, or it cannot be imported."""

    repository: ClassVar[str]
    commit: ClassVar[str]
    modules: ClassVar[dict[str, str]]
    """By what they are called here."""

    def __init__(self, path: Path, attention: AttentionFunction) -> None:
        missing = [name for name in self.modules.values() if not (path / f"{name.replace('.', '/')}.py").is_file()]
        if missing:
            raise InputError(
                f"{path} is no checkout of the reference: it has no {missing[0].replace('.', '/')}.py; give the "
                f"folder of a clone of {self.repository} at {self.commit}"
            )
        self.stand_ins = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        self._modules = self._import(path)
        self.use(attention)

    def _import(self, path: Path) -> dict[str, Any]:
        packages = {name.partition(".")[0] for name in self.modules.values()}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        sys.path.insert(0, str(path.resolve()))
        try:
            with quiet(), standing_in(self.stand_ins):
                return {part: importlib.import_module(name) for part, name in self.modules.items()}
        except ImportError as error:
            raise InputError(f"the reference in {path} cannot be imported: {error}; install it") from error
        finally:
            sys.path.remove(str(path.resolve()))

    @abstractmethod
    def use(self, attention: AttentionFunction) -> None:
        """Have all its attention but that of the VAE computed by this function."""

    @abstractmethod
    def networks(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> Networks:
        """Its models with the widths of the preset; the values of their weights are undefined."""

    @abstractmethod
    def weights(self, networks: Networks) -> Weights:
        """What ours are to have, too."""

    @abstractmethod
    def pipeline(self, preset: Preset, networks: Networks, inputs: Inputs, seed: int) -> Any:
        """Its pipeline at the beginning of a stream, on the device and in the dtype of its networks."""

    @abstractmethod
    def condition(self, pipeline: Any) -> Tensor:
        """What stands beside a chunk's latent, [C,F,h,w]."""

    @abstractmethod
    def compile(self, pipeline: Any) -> None:
        """What it does where it is not offloaded: compile the transformer and both ways of the VAE."""

    @abstractmethod
    def step(self, preset: Preset, transformer: Any, inputs: MetaInputs) -> Tensor:
        """One evaluation of its transformer, on the meta device."""

    def _wan_vae(self, config: VAEConfig, device: torch.device, dtype: torch.dtype) -> Any:
        module = self._modules["vae"]

        def build(**_: Any) -> nn.Module:
            with torch.device("meta"):
                network = module.WanVAE_(
                    config.dim, LATENT_CHANNELS, list(WIDTHS), temperal_downsample=list(TEMPORAL_LEVELS)
                )
            return network if device.type == "meta" else network.to_empty(device=device)

        with patch.object(module, "_video_vae", build):
            return module.WanVAE(dtype=dtype, device=device)


def placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """A model that was built on the meta device, on its own; the values of its weights are undefined."""
    model = model.to(dtype)
    return model if device.type == "meta" else model.to_empty(device=device)


def same_noise(seed: int, device: torch.device, dtype: torch.dtype) -> NoiseSource:
    """A noise source that draws as the reference does: a start and one for every step, of which the last is unused."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(_: int, shape: tuple[int, ...]) -> Tensor:
        draws = [torch.randn(shape[1:], generator=generator, device=device, dtype=dtype) for _ in range(shape[0] + 1)]
        return torch.stack(draws[:-1])

    return draw
