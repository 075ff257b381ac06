"""Memory that a computation needs, found without spending it: run on the meta device and counted."""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..models import fp8 as fp8_layers
from ..models import operations
from ..models.attention import AttentionFunction, attend
from ..models.audio_encoder import AudioEncoder
from ..models.codec import Codec, build_vae, decode_streamed
from ..models.ltx_vae import LTXVAE
from ..models.text_encoder import TextEncoder
from ..models.transformer import AudioContext, Context, Transformer
from ..models.vae import VAE
from ..presets import Preset
from ..shapes import VideoShape

MARGIN = 1 / 8
"""Of the largest working set: what kernels take beside tensors, and what the allocator cannot use of its own."""


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are alive at once; kernels' workspaces are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {storage._cdata for storage in _storages_of((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages_of(result):
            if storage._cdata not in inputs | self._storages:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._storages.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size


def _storages_of(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes that `work`, given meta tensors, holds at once beyond what it was given."""
    with torch.inference_mode(), PeakMemory() as memory:
        work()
    return memory.peak


def weight_bytes(module: torch.nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of a module's parameters, as they are or in another dtype."""
    return sum(p.numel() * (dtype or p.dtype).itemsize for p in module.parameters())


class _MetaConv3d(operations.Conv3d):
    """oneDNN has no meta kernel: count through PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)


def meta_attend(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    """A fused kernel's memory: its result alone."""
    return torch.empty_like(q)


class _MetaOperations:
    Linear, LayerNorm, RMSNorm = operations.Linear, operations.LayerNorm, operations.RMSNorm
    Conv2d, Conv3d = operations.Conv2d, _MetaConv3d


class _MetaFp8Operations(_MetaOperations):
    Linear = fp8_layers.Linear


@cache
def memory_of(preset: Preset, height: int, width: int, dtype: torch.dtype, fp8: bool = False) -> dict[str, int]:
    """Bytes that a preset needs at a size: each part's weights, the kept context, each part's working memory, and a
    margin (`MARGIN`) for what is not counted. The text encoder, alone on the device and then freed, is not among it.
    """
    transformer, vae = models = meta_models(preset, dtype, fp8)
    works = meta_works(preset, height, width, dtype, meta_attend, models)
    working = {
        "transformer step": peak_bytes(works["transformer step"]),
        **_vae_memory(with_layers(preset, 1), height, width, dtype),
    }
    with torch.device("meta"):
        sound = weight_bytes(AudioEncoder(preset.audio), torch.float32)
    weights = {
        "transformer weights": weight_bytes(transformer),
        "VAE weights": weight_bytes(vae),
        "audio encoder weights": sound,
    }
    return as_needed(weights, peak_bytes(lambda: meta_kept(transformer, preset, height, width)), working)


def as_needed(weights: dict[str, int], context: int, working: dict[str, int]) -> dict[str, int]:
    """What is needed of each part's weights, the kept context and each part's working memory, with the margin."""
    return {**weights, "context": context, **working, "margin": int(MARGIN * max(working.values()))}


@cache
def _vae_memory(preset: Preset, height: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """The VAE's working memory, which is the same whatever the transformer is made of."""
    works = meta_works(preset, height, width, dtype)
    return {part: peak_bytes(works[part]) for part in ("VAE decode", "VAE encode")}


def with_layers(preset: Preset, count: int) -> Preset:
    """The preset with a transformer of so many blocks."""
    return replace(preset, transformer=replace(preset.transformer, num_layers=count))


@cache
def text_encoder_bytes(preset: Preset, dtype: torch.dtype) -> int:
    """Bytes of the text encoder's weights: it is on the device before the others, and no longer with them. Members
    that read no prompt have none.
    """
    if preset.text is None:
        return 0
    with torch.device("meta"):
        return weight_bytes(TextEncoder(preset.text), dtype)


def meta_works(
    preset: Preset,
    height: int,
    width: int,
    dtype: torch.dtype,
    attention: AttentionFunction = attend,
    models: "tuple[Transformer, Codec] | None" = None,
) -> dict[str, Callable[[], Any]]:
    """Each part's work on one chunk, on the meta device: shapes pass through it, and nothing is computed.

    `models` are the preset's, if `meta_models` has made them already.
    """
    transformer, vae = models or meta_models(preset, dtype)
    config, shape = preset.transformer, VideoShape(preset.stream.frame_num, height, width).latent(preset.geometry)
    latent = torch.empty(1, config.out_dim, *shape, device="meta")
    cond = torch.empty(1, config.in_dim - config.out_dim, *shape, device="meta")
    tail = torch.empty(1, 3, preset.stream.motion_frames, height, width, device="meta")
    with torch.inference_mode():
        text, sound = _meta_context(transformer, preset)
        time, scene = transformer.embed_timestep(torch.empty(1, device="meta")), transformer.embed_scene(cond)
    return {
        "transformer step": lambda: transformer.evaluate(latent, time, scene, text, sound, attention),
        "VAE decode": lambda: deque(decode_streamed(vae, latent), maxlen=1),
        "VAE encode": lambda: vae.encode(tail),
    }


def operations_of(preset: Preset, height: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Floating-point operations of each part's matrix products and convolutions: a multiplication and an addition each.

    Counted by shape, so that they are what the mathematics needs, whichever kernels compute it.
    """
    counts = {}
    for part, work in meta_works(preset, height, width, dtype).items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            work()
        counts[part] = counter.get_total_flops()
    return counts


def meta_models(preset: Preset, dtype: torch.dtype, fp8: bool = False) -> tuple[Transformer, VAE | LTXVAE]:
    """A preset's models on the meta device: shapes pass through them, and nothing is computed."""
    layers = _MetaFp8Operations if fp8 else _MetaOperations
    transformer = Transformer(preset.transformer, layers, device="meta", dtype=dtype)
    for block in transformer.blocks if fp8 else ():
        fp8_layers.quantize(block)
    return transformer, build_vae(preset.vae, _MetaOperations, "meta", dtype)


def resident(needed: dict[str, int]) -> int:
    """Bytes held at once: all weights, the context and the margin, and the largest working set."""
    kept = {part for part in needed if part in ("context", "margin") or "weights" in part}
    return sum(needed[part] for part in kept) + max(needed[part] for part in needed.keys() - kept)


def meta_kept(transformer: Transformer, preset: Preset, height: int, width: int) -> Any:
    """All that is kept from step to step: contexts, the scene, each timestep's modulation, and the chunk's noise."""
    config, stream = preset.transformer, preset.stream
    shape = VideoShape(stream.frame_num, height, width).latent(preset.geometry)
    cond = torch.empty(1, config.in_dim - config.out_dim, *shape, device="meta")
    noise = torch.empty(stream.steps, config.out_dim, *shape, device="meta")
    times = [transformer.embed_timestep(torch.empty(1, device="meta")) for _ in range(stream.steps)]
    return _meta_context(transformer, preset), transformer.embed_scene(cond), cond, noise, times


def _meta_context(transformer: Transformer, preset: Preset) -> tuple[Context, AudioContext]:
    config = preset.transformer
    text = torch.empty(1, config.text_len, config.text_dim, device="meta")
    clip = torch.empty(1, preset.image_tokens, config.clip_dim, device="meta")
    windows = (1, preset.stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
    return transformer.embed_context(text, clip), transformer.embed_audio(torch.empty(windows, device="meta"))
