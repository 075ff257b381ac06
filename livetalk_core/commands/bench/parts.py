"""How long each part of the model takes on this machine, and how much memory: random weights, no files needed."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...hardware.kernels import Shape, choose_attention, name_of
from ...hardware.machine import available_memory, describe, peak_memory
from ...hardware.memory import operations_of
from ...hardware.placement import Placement, layers_of, place, residence
from ...models import operations
from ...models.audio_encoder import AudioEncoder
from ...models.codec import build_vae
from ...models.fp8 import quantize
from ...models.transformer import Transformer
from ...presets import Preset
from ...shapes import SAMPLES_PER_FRAME, VideoShape
from ...streaming.avatar import Avatar
from ...streaming.engine import Engine, LocalEngine
from ...streaming.features import LIVE_FRAMES, LiveFeatures
from ...streaming.plan import ChunkPlan
from ...streaming.render import Render
from ...streaming.session import ChunkEnd, Session, ignore_step
from .stopwatch import Stopwatch, TimedEngine

RATE_RUNS = 5


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a module's parameters in place with small random numbers, on the device they are on."""
    for index, parameter in enumerate(module.parameters()):
        generator = torch.Generator(parameter.device).manual_seed(seed + index)
        parameter.data.normal_(0, 0.02, generator=generator)
    return module.eval().requires_grad_(False)


def bench(
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    attention: str = "auto",
    compiled: bool = False,
    placement: Placement = Placement(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Median seconds of each part, and of whole chunks, over `repeats` after one to warm up, and the peak memory.

    Raises `InputError` if the preset does not fit into what is free.
    """
    needed = residence(preset, dtype, placement)
    check_fit(preset, device, placement.dtype_name(dtype), needed.total)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    transformer = build_transformer(preset, device, dtype, placement, needed.streamed)
    models = build_models(preset, transformer, device, dtype, attention, compiled)
    parts = {part: time_work(work, device, repeats) for part, work in works_of(preset, models, device).items()}
    chunks = iteration(preset, models, device, repeats)
    return {
        "preset": preset.name,
        "size": [preset.stream.width, preset.stream.height],
        "frames": preset.stream.frame_num,
        "new_frames": preset.stream.new_frames,
        "steps": preset.stream.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": placement.dtype_name(dtype),
        "blocks_on_device": [needed.blocks, needed.of],
        "attention": name_of(cast(LocalEngine, models.engine).attention, attention),
        "compiled": compiled,
        "seconds": parts,
        "chunk_seconds": statistics.median(chunks["seconds"]),
        "iteration": chunks,
        **_floor(operations_of(preset, preset.stream.height, preset.stream.width, dtype), needed.needed, device, dtype),
        "peak_bytes": peak_memory(device),
        "machine": describe(),
    }


def check_fit(preset: Preset, device: torch.device, dtype: str, total: int) -> None:
    """Raise `InputError`, which says what would fit, where the `total` of bytes that are needed is not free."""
    free = available_memory(device)
    if total <= free:
        return
    size = f"{preset.stream.width}x{preset.stream.height}"
    fitting = "--fp8, --memory or the preset nano" if preset.name != "nano" else "a smaller --size"
    raise InputError(
        f"{preset.name} at {size} in {dtype} needs {total / 2**30:.1f} GiB on {device}; "
        f"{free / 2**30:.1f} GiB are free: {fitting} would fit"
    )


class Models(NamedTuple):
    """What computes a stream, with random weights."""

    engine: Engine
    encoder: Any


def build_models(
    preset: Preset, transformer: Transformer, device: torch.device, dtype: torch.dtype, attention: str, compiled: bool
) -> Models:
    kernel = choose_attention(attention, Shape.of(preset, device, dtype))
    engine = LocalEngine(
        transformer,
        randomize(build_vae(preset.vae, operations, device, dtype)),  # pyright: ignore[reportArgumentType]
        device,
        preset.stream.shift,
        kernel,
        compiled,
        bridge=preset.stream.bridge,
    )
    return Models(engine, randomize(AudioEncoder(preset.audio).to(device)))


def works_of(preset: Preset, models: Models, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What is timed alone: each part as the stream calls it."""
    config, stream, (engine, encoder) = preset.transformer, preset.stream, models
    shape = VideoShape(stream.frame_num, stream.height, stream.width)
    latent = torch.randn(config.out_dim, *shape.latent(preset.geometry), device=device)
    windows = torch.randn(1, stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
    avatar = random_avatar(preset, shape)
    sound = torch.randn(LIVE_FRAMES * SAMPLES_PER_FRAME)
    tail = torch.rand(3, stream.motion_frames, stream.height, stream.width) * 2 - 1

    def step() -> Tensor:
        return engine.denoise(avatar, windows, avatar.first_motion(preset.geometry), latent[None].cpu(), ignore_step)

    return {
        "audio, 8 s": lambda: encoder.embed(sound, LIVE_FRAMES),
        "transformer step": step,
        "VAE decode": lambda: list(engine.decode(latent)),
        "first frame of decode": lambda: next(iter(engine.decode(latent))),
        "VAE encode": lambda: engine.encode(tail),
    }


def build_transformer(
    preset: Preset, device: torch.device, dtype: torch.dtype, placement: Placement, streamed: Sequence[int]
) -> Transformer:
    """Random weights, placed; made on the device block by block, since it need not hold them all."""
    model: Any = Transformer(preset.transformer, layers_of(placement, device), "meta", dtype)
    for index, block in enumerate(model.blocks):
        randomize(block.to_empty(device=device), index)
        if placement.fp8:
            quantize(block)
        if index in streamed:
            block.cpu()
    for name, part in model.named_children():
        if name != "blocks":
            randomize(part.to_empty(device=device))
    return place(model.eval(), device, placement.fp8, streamed)


def random_avatar(preset: Preset, shape: VideoShape) -> Avatar:
    """An avatar of random numbers, of a preset's widths."""
    config = preset.transformer
    cond = torch.randn(config.in_dim - config.out_dim, *shape.latent(preset.geometry))
    reference = torch.rand(1, 3, 1, shape.height, shape.width) * 2 - 1
    if not config.prompted:
        return Avatar(reference, cond)
    return Avatar(
        reference, cond, torch.randn(1, preset.image_tokens, config.clip_dim), torch.randn(16, config.text_dim)
    )


def time_work(work: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, float]:
    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start

    once()
    seconds = [once() for _ in range(repeats)]
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}


def _floor(
    operations: dict[str, int], needed: dict[str, int], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What this machine would take for each part if nothing but its products, or reading its weights, took time."""
    rate, copied = matrix_rate(device, dtype), copy_rate(device)
    weights = {part: needed[f"{part.split()[0]} weights"] for part in operations}
    return {
        "matrix_operations_per_second": rate,
        "copied_bytes_per_second": copied,
        "operations": operations,
        "weight_bytes": weights,
        "floor_seconds": {part: max(count / rate, weights[part] / copied) for part, count in operations.items()},
    }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the fastest of a few runs."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / time_work(lambda: matrix @ matrix, device, RATE_RUNS)["least"]


def copy_rate(device: torch.device) -> float:
    """Bytes a second read, and as many written, when a large tensor is copied."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return source.nbytes / time_work(lambda: target.copy_(source), device, RATE_RUNS)["least"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Noise:
    """Sound without end."""

    def read(self, _start: int, count: int, _rate: int, mono: bool) -> np.ndarray:
        """See `AudioSource.read`."""
        return np.random.default_rng(0).standard_normal((1, count)).astype(np.float32) / 8


def iteration(
    preset: Preset, models: Models, device: torch.device, repeats: int, whole_chunks: bool = False
) -> dict[str, Any]:
    """Whole chunks, from sound to a video file, as `generate` makes them; one more is made before, to warm up.

    Of each: its seconds, those until its first new frame is handed on, and those outside transformer and VAE; not the
    last where the engine computes `whole_chunks`.
    """
    stream, watch = preset.stream, Stopwatch(device)
    plan = ChunkPlan.of((1 + repeats) * stream.new_frames, stream, live=True)
    avatar = random_avatar(preset, VideoShape(stream.frame_num, stream.height, stream.width))
    features = LiveFeatures(Noise(), models.encoder, plan)  # pyright: ignore[reportArgumentType]
    engine = models.engine if whole_chunks else TimedEngine(models.engine, watch)
    session = Session(engine, avatar, features, plan, stream, ahead=device.type != "cpu", pixels=whole_chunks)
    rows: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        begun, inside, first = watch.now(), 0.0, None
        for event in Render(session, Path(folder) / "talk.mp4", 0, None, {}).run():
            if isinstance(event, ChunkEnd):
                seconds = watch.now() - begun
                rows.append((seconds, first or seconds, seconds - (watch.total() - inside)))
                begun, inside, first = watch.now(), watch.total(), None
            elif first is None:
                first = watch.now() - begun
    seconds, firsts, outside = (list(column) for column in zip(*rows[1:], strict=True))
    return {"seconds": seconds, "first_frame_seconds": firsts} | ({} if whole_chunks else {"outside_seconds": outside})
