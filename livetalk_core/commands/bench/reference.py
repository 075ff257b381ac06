"""The published reference implementation, run as it is from a checkout: what `bench --against` measures ours by.

It asks at import for packages of which a chunk needs nothing, or nothing but a base class. Those that are not
installed are stood in for while it is imported. Attention is always the function that ours runs with.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

from ...config import TransformerConfig
from ...errors import InputError
from ...models.attention import AttentionFunction
from ...models.vae import LATENT_CHANNELS, TEMPORAL_LEVELS, WIDTHS
from ...presets import Preset

COMMIT = "df95a36"
PARTS = {
    "transformer": "flash_talk.infinite_talk.modules.multitalk_model",
    "audio attention": "flash_talk.infinite_talk.modules.multitalk_attention",
    "vae": "flash_talk.wan.modules.vae",
    "pipeline": "flash_talk.src.pipeline.flash_talk_pipeline",
}
PACKAGES = (
    "decord", "diffusers", "easydict", "ftfy", "imageio", "librosa", "loguru", "optimum", "skimage", "torchvision",
    "xformers", "xfuser",
)  # fmt: skip


def _center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]


NEEDED_OF_THEM: dict[str, dict[str, Any]] = {
    "diffusers": {"ModelMixin": nn.Module},
    "diffusers.models.modeling_utils": {"ModelMixin": nn.Module},
    "diffusers.configuration_utils": {"register_to_config": lambda initialize: initialize},
    "loguru": {"logger": logging.getLogger(__name__)},
    "torchvision.transforms": {"functional": SimpleNamespace(center_crop=_center_crop)},
}
"""What a chunk does need of them; everything else is an empty class."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    """Finds packages that are not there, and every module in them."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(NEEDED_OF_THEM.get(module.__name__, {}))


@contextlib.contextmanager
def standing_in(packages: Sequence[str]) -> Iterator[None]:
    """While it lasts, imports of `packages` succeed; afterwards nobody finds them."""
    finder = _StandIns(packages)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The reference prints in its loop, warns, and asks for a GPU and waits for it whether there is one or not."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            stack.enter_context(patch.object(torch.cuda, "synchronize", lambda *_: None))
            stack.enter_context(patch.object(torch.cuda, "current_device", lambda: "cpu"))
        yield


class Reference:
    """A checkout's modules, imported. Raises `InputError` where `path` holds no checkout, or it cannot be imported."""

    def __init__(self, path: Path, attention: AttentionFunction) -> None:
        missing = [name for name in PARTS.values() if not (path / f"{name.replace('.', '/')}.py").is_file()]
        if missing:
            raise InputError(
                f"{path} is no checkout of the reference: it has no {missing[0].replace('.', '/')}.py; give the "
                f"folder of a clone of SoulX-FlashTalk at {COMMIT}"
            )
        self.stand_ins = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        self._modules = self._import(path)
        self.use(attention)

    def _import(self, path: Path) -> dict[str, Any]:
        for name in [name for name in sys.modules if name.partition(".")[0] == "flash_talk"]:
            del sys.modules[name]
        sys.path.insert(0, str(path.resolve()))
        try:
            with quiet(), standing_in(self.stand_ins):
                return {part: importlib.import_module(name) for part, name in PARTS.items()}
        except ImportError as error:
            raise InputError(f"the reference in {path} cannot be imported: {error}; install it") from error
        finally:
            sys.path.remove(str(path.resolve()))

    def use(self, attention: AttentionFunction) -> None:
        """Have all its attention but that of the VAE computed by this function."""

        def call(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
            return attention(q, k, v)

        self._modules["transformer"].flash_attention = call
        self._modules["audio attention"].xformers = SimpleNamespace(
            ops=SimpleNamespace(memory_efficient_attention=call)
        )

    def transformer(self, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> Any:
        """Its transformer with the widths of `config`; the values of its weights are undefined."""
        module = self._modules["transformer"]
        shared = {name: getattr(config, name) for name in ("audio_window", "intermediate_dim", "output_dim")}
        shared["context_tokens"] = config.context_tokens
        names = (
            "dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "freq_dim", "text_len", "text_dim", "eps"
        )  # fmt: skip
        with quiet(), torch.device("meta"):
            model = module.WanModel(**{name: getattr(config, name) for name in names}, **shared, weight_init=False)
            model.img_emb = module.MLPProj(config.clip_dim, config.dim)
            window = shared.pop("audio_window")
            model.audio_proj = module.AudioProjModel(
                seq_len=window, seq_len_vf=window + config.geometry.temporal_stride - 1, blocks=config.audio_blocks,
                channels=config.audio_channels, norm_output_audio=True, **shared,
            )  # fmt: skip
        model = model.to(dtype)
        if device.type != "meta":
            model.to_empty(device=device)
        model.init_freqs()
        return model.eval().requires_grad_(False)

    def vae(self, dim: int, device: torch.device, dtype: torch.dtype) -> Any:
        """Its VAE of base width `dim`; its network, with undefined weights, is `model`."""
        module = self._modules["vae"]

        def build(**_: Any) -> nn.Module:
            with torch.device("meta"):
                network = module.WanVAE_(dim, LATENT_CHANNELS, list(WIDTHS), temperal_downsample=list(TEMPORAL_LEVELS))
            return network if device.type == "meta" else network.to_empty(device=device)

        with patch.object(module, "_video_vae", build):
            return module.WanVAE(dtype=dtype, device=device)

    def pipeline(
        self, preset: Preset, transformer: Any, vae: Any, image: Image.Image, tokens: tuple[Tensor, Tensor], seed: int
    ) -> Any:
        """Its pipeline at the beginning of a stream: `image` of the stream's size, `tokens` those of text and image."""
        text, clip = tokens
        device, dtype, stream = text.device, text.dtype, preset.stream
        pipeline = object.__new__(self._modules["pipeline"].FlashTalkPipeline)
        vars(pipeline).update(
            device=device, param_dtype=dtype, cpu_offload=False, rank=0, use_usp=False, sp_size=1, num_timesteps=1000,
            vae_stride=(4, 8, 8), patch_size=(1, 2, 2), use_timestep_transform=True, model=transformer, vae=vae,
            text_encoder=lambda *_: [text], clip=SimpleNamespace(visual=lambda _: clip),
        )  # fmt: skip
        with quiet():
            pipeline.prepare_params(
                "", image, (stream.height, stream.width), stream.frame_num, stream.motion_frames, stream.steps, seed,
                stream.shift, stream.color_correction,
            )  # fmt: skip
        return pipeline


def compile_as_published(pipeline: Any) -> None:
    """What the reference does where it is not offloaded: it compiles the transformer and both ways of the VAE."""
    pipeline.model = torch.compile(pipeline.model)
    pipeline.vae.encode, pipeline.vae.decode = map(torch.compile, (pipeline.vae.encode, pipeline.vae.decode))


Draw = Callable[[int, tuple[int, ...]], Tensor]


def same_noise(seed: int, device: torch.device, dtype: torch.dtype) -> Draw:
    """A noise source that draws as the reference does: a start and one for every step, of which the last is unused."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(_: int, shape: tuple[int, ...]) -> Tensor:
        draws = [torch.randn(shape[1:], generator=generator, device=device, dtype=dtype) for _ in range(shape[0] + 1)]
        return torch.stack(draws[:-1])

    return draw
