"""Ours beside a checkout of the reference, chunk by chunk in turn: same weights, inputs, noise and attention kernel.

Both run the whole loop; the parts are timed inside it. What both give is compared too, since a race between different
results says nothing.
"""

import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...config import VAEConfig
from ...errors import InputError
from ...hardware.kernels import Shape, choose_attention, name_of
from ...hardware.machine import commit, describe
from ...hardware.memory import meta_models
from ...hardware.placement import Placement, residence
from ...media.image import to_reference
from ...models.attention import AttentionFunction, attend
from ...models.transformer import Transformer
from ...models.vae import VAE
from ...presets import Preset
from ...shapes import LatentShape, VideoShape
from ...streaming.avatar import Avatar
from ...streaming.engine import LocalEngine
from ...streaming.plan import Chunk, ChunkPlan
from ...streaming.session import ChunkEnd, Session, ignore_step
from .parts import check_fit, random_avatar
from .reference import COMMIT, Reference, compile_as_published, quiet, same_noise
from .stopwatch import DECODE, ENCODE, STEP, Stopwatch, TimedEngine

CHUNK = "chunk"
PARTS = (STEP, DECODE, ENCODE, CHUNK)
IMAGE_TOKENS = 257
"""The reference's own number, whatever the preset's image encoder gives."""
TEXT_TOKENS = 16
SEED = 0
TOLERANCE = 1e-2
"""Largest difference in float32, of the greatest value."""


class Outcome(NamedTuple):
    """What a chunk gives: its new frames [3,n,H,W], and the clean latents [16,k,h,w] that the next one starts from."""

    frames: Tensor
    motion: Tensor


class Side(NamedTuple):
    """One of the two: `chunk` computes the stream's next one, `watch` notes how long it and its parts take."""

    chunk: Callable[[], Outcome]
    watch: Stopwatch


class GivenFeatures(NamedTuple):
    """Audio windows [1,frames,5,blocks,channels], the same for every chunk."""

    windows: Tensor

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """See `session.Features`."""
        return self.windows


def race(
    path: Path,
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    attention: str = "auto",
    compiled: bool = False,
) -> dict[str, Any]:
    """Chunks of both in turn, `repeats` of each, as a record.

    On a GPU both are compiled, as the reference is published, and a first chunk of each is not timed; elsewhere they
    are if `compiled`. Raises `InputError` where `path` holds no checkout of the reference, the preset does not fit into
    what is free, or the two give different results.
    """
    if device.type == "cpu" and dtype != torch.float32:
        raise InputError(f"the reference runs on a CPU in float32 alone, not in {dtype}: leave --dtype out")
    needed = residence(preset, dtype, Placement())
    check_fit(preset, device, Placement().dtype_name(dtype), needed.total)
    kernel = choose_attention(attention, Shape.of(preset, device, dtype))
    reference = Reference(path, kernel)
    compiled, untimed = compiled or device.type == "cuda", int(device.type == "cuda")
    sides = _sides(reference, preset, device, dtype, kernel, compiled, untimed + repeats)
    errors = _run(sides, untimed, repeats, exact=dtype == torch.float32)
    reference.use(attend)  # the counter sees into this one
    stream = preset.stream
    return {
        "preset": preset.name,
        "size": [stream.width, stream.height],
        "frames": stream.frame_num,
        "steps": stream.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "attention": name_of(kernel, attention),
        "compiled": compiled,
        "reference": {"commit": commit(path), "stand_ins": reference.stand_ins},
        "errors": errors,
        "parts": _parts(sides, _operations(reference, preset, dtype), stream.steps),
        "load": os.getloadavg(),
        "machine": describe(),
    }


def fill(module: nn.Module, seed: int) -> None:
    """Random weights under which signals neither vanish nor grow: gains about 1, matrices by what they sum over."""
    for index, (name, parameter) in enumerate(module.named_parameters()):
        generator = torch.Generator(parameter.device).manual_seed(seed + index)
        summed = parameter[0].numel() if parameter.ndim > 1 else 1
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1, generator=generator)
        elif summed == 1:
            parameter.data.normal_(1, 0.1, generator=generator)
        else:
            parameter.data.normal_(0, summed**-0.5, generator=generator)


def _sides(
    reference: Reference,
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    attention: AttentionFunction,
    compiled: bool,
    chunks: int,
) -> dict[str, Side]:
    """Both at the beginning of the same stream, on the same memory for their weights."""
    stream = preset.stream
    theirs, vae = (
        reference.transformer(preset.transformer, device, dtype),
        reference.vae(_wan(preset).dim, device, dtype),
    )
    fill(theirs, 1)
    fill(vae.model, 2)
    with torch.device("meta"):
        ours, our_vae = Transformer(preset.transformer, dtype=dtype), VAE(_wan(preset), dtype=dtype)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    our_vae.load_state_dict(vae.model.state_dict(), assign=True)
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (stream.height, stream.width, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    text = torch.randn(TEXT_TOKENS, preset.transformer.text_dim, generator=generator).to(device, dtype)
    clip = torch.randn(1, IMAGE_TOKENS, preset.transformer.clip_dim, generator=generator).to(device, dtype)
    widths = preset.transformer
    shape = (1, stream.frame_num, widths.audio_window, widths.audio_blocks, widths.audio_channels)
    windows = torch.randn(shape, generator=generator).to(device, dtype)
    pipeline = reference.pipeline(preset, theirs, vae, image, (text, clip), SEED)
    if compiled:
        compile_as_published(pipeline)
    avatar = Avatar(to_reference(image, stream.height, stream.width), pipeline.arg_c["y"][0], clip, text)
    engine = LocalEngine(ours.eval(), our_vae.eval(), device, stream.shift, attention, compiled)
    return {
        "reference": _their_side(pipeline, windows, device, stream.motion_frames),
        "ours": _our_side(engine, avatar, windows, preset, dtype, chunks),
    }


def _their_side(pipeline: Any, windows: Tensor, device: torch.device, repeated: int) -> Side:
    watch = Stopwatch(device)
    pipeline.model = watch.timed(STEP, pipeline.model)
    pipeline.vae.decode = watch.timed(DECODE, pipeline.vae.decode)
    pipeline.vae.encode = watch.timed(ENCODE, pipeline.vae.encode)
    skips = iter([0])

    def chunk() -> Outcome:
        with quiet(), watch.measure(CHUNK):
            frames = pipeline.generate(windows)
        return Outcome(frames[:, next(skips, repeated) :], pipeline.latent_motion_frames)

    return Side(chunk, watch)


def _our_side(
    engine: LocalEngine, avatar: Avatar, windows: Tensor, preset: Preset, dtype: torch.dtype, chunks: int
) -> Side:
    watch, stream = Stopwatch(engine.device), replace(preset.stream, revisions=0)  # as the reference has it
    plan = ChunkPlan.of(stream.frame_num + (chunks - 1) * stream.new_frames, stream)
    noise = same_noise(SEED, engine.device, dtype)
    features = GivenFeatures(windows)
    session = Session(TimedEngine(engine, watch), avatar, features, plan, stream, noise=lambda _: noise)
    events = session.run(session.start(SEED))

    def chunk() -> Outcome:
        frames: list[Tensor] = []
        with watch.measure(CHUNK):
            for event in events:
                if isinstance(event, ChunkEnd):
                    break
                frames.append(event.frames)
            else:
                raise AssertionError("the plan has no more chunks")
        return Outcome(torch.cat(frames, dim=1), event.state.motion)

    return Side(chunk, watch)


def _run(sides: dict[str, Side], untimed: int, repeats: int, exact: bool) -> list[dict[str, Any]]:
    """Chunks in turn, who begins changing from one to the next; how far the results of each pair differ.

    Stops at the first pair that differs by more than rounding, where they are to be `exact`.
    """
    errors = []
    for index in range(untimed + repeats):
        if index == untimed:
            for side in sides.values():
                side.watch.seconds.clear()
        order = sorted(sides, reverse=index % 2 == 0)
        outcomes = {name: sides[name].chunk() for name in order}
        pairs = zip(outcomes["reference"], outcomes["ours"], strict=True)
        errors.append({name: _error(*pair) for name, pair in zip(Outcome._fields, pairs, strict=True)})
        for name, error in errors[-1].items():
            if exact and not error["error"] <= TOLERANCE * error["of"]:
                raise InputError(
                    f"{name} of chunk {index} differ by {error['error']:.1e} (values up to {error['of']:.1f}): the two "
                    f"do not compute the same, so their times are not compared; the reference at {COMMIT} is needed"
                )
    return errors


def _error(theirs: Tensor, ours: Tensor) -> dict[str, float]:
    """The greatest difference, and the greatest value that was wanted."""
    theirs, ours = theirs.double().cpu(), ours.double().cpu()
    return {"error": (theirs - ours).abs().max().item(), "of": theirs.abs().max().item()}


def _parts(sides: dict[str, Side], operations: dict[str, dict[str, int]], steps: int) -> dict[str, Any]:
    parts = {}
    for part in PARTS:
        seconds = {name: side.watch.seconds[part] for name, side in sides.items()}
        ratios = [theirs / ours for theirs, ours in zip(seconds["reference"], seconds["ours"], strict=True)]
        counts = {name: _count(operations[name], part, steps) for name in sides}
        parts[part] = {
            **seconds,
            "faster": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "operations": counts,
            "faster_by_operations": counts["reference"] / counts["ours"],
        }
    return parts


def _count(operations: dict[str, int], part: str, steps: int) -> int:
    if part != CHUNK:
        return operations[part]
    return steps * operations[STEP] + operations[DECODE] + operations[ENCODE]


def _operations(reference: Reference, preset: Preset, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """Operations of each part on both sides, counted on the meta device."""
    works = {"reference": _their_meta_works(reference, preset, dtype), "ours": _our_meta_works(preset, dtype)}
    return {side: {part: _counted(work) for part, work in parts.items()} for side, parts in works.items()}


def _counted(work: Callable[[], Any]) -> int:
    with quiet(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _meta_inputs(preset: Preset) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, last frames and audio windows of a chunk."""
    stream, widths = preset.stream, preset.transformer
    windows = (1, stream.frame_num, widths.audio_window, widths.audio_blocks, widths.audio_channels)
    latent = torch.empty(widths.out_dim, *_latent(preset), device="meta")
    tail = torch.empty(3, stream.motion_frames, stream.height, stream.width, device="meta")
    return latent, tail, torch.empty(windows, device="meta")


def _their_meta_works(reference: Reference, preset: Preset, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    meta, widths = torch.device("meta"), preset.transformer
    model, vae = reference.transformer(widths, meta, dtype), reference.vae(_wan(preset).dim, meta, dtype)
    latent, tail, windows = (tensor.to(dtype) for tensor in _meta_inputs(preset))
    settings = {
        "context": [torch.empty(TEXT_TOKENS, widths.text_dim, device=meta, dtype=dtype)],
        "clip_fea": torch.empty(1, IMAGE_TOKENS, widths.clip_dim, device=meta, dtype=dtype),
        "y": torch.empty(1, widths.in_dim - widths.out_dim, *latent.shape[1:], device=meta, dtype=dtype),
        "seq_len": _latent(preset).tokens(preset.geometry), "audio": windows, "ref_target_masks": None,
    }  # fmt: skip
    return {
        STEP: lambda: model([latent], t=torch.empty(1, device=meta), **settings),
        DECODE: lambda: vae.decode(latent),
        ENCODE: lambda: vae.encode(tail[None]),
    }


def _our_meta_works(preset: Preset, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """A step includes its sound, as the first of a chunk does; what an avatar contributes has been computed before."""
    latent, tail, windows = _meta_inputs(preset)
    engine = LocalEngine(*meta_models(preset, dtype), "meta")
    avatar = random_avatar(preset, _video(preset))

    def step() -> Tensor:
        return engine.denoise(avatar, windows, avatar.first_motion(preset.geometry), latent[None], ignore_step)

    step()
    return {STEP: step, DECODE: lambda: list(engine.decode(latent)), ENCODE: lambda: engine.encode(tail)}


def _wan(preset: Preset) -> VAEConfig:
    """The VAE's widths; `InputError` for members of the family that the reference has not."""
    if not isinstance(preset.vae, VAEConfig) or not preset.transformer.prompted:
        raise InputError(f"preset {preset.name}; the reference is of the 14B model's build: use 14b, small or nano")
    return preset.vae


def _video(preset: Preset) -> VideoShape:
    return VideoShape(preset.stream.frame_num, preset.stream.height, preset.stream.width)


def _latent(preset: Preset) -> LatentShape:
    return _video(preset).latent(preset.geometry)


def title(record: dict[str, Any]) -> str:
    """What was measured."""
    width, height = record["size"]
    compiled = ", both compiled" if record["compiled"] else ""
    shape = f"{record['preset']} at {width}x{height}, {record['dtype']}"
    return f"Against the reference: {shape}, on {record['device']}{compiled}"


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    lines = [title(record), f"  {'':<18}{'reference':>12}{'ours':>12}   times faster (least .. most)   by operations"]
    for part, theirs, ours, faster, spread, expected in _rows(record):
        lines.append(f"  {part:<18}{theirs:>12}{ours:>12}   {f'{faster} ({spread})':<28}   {expected}")
    return "\n".join([*lines, *(f"  {line}" for line in _comparison(record))])


def table(record: dict[str, Any]) -> str:
    """The record as a section in Markdown."""
    machine = record["machine"]
    lines = [
        f"### {title(record)}",
        "",
        f"{machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}, commit "
        f"{machine['commit'][:12]}; the reference at {record['reference']['commit'][:7]}. Whole chunks of "
        f"{record['frames']} frames and {record['steps']} steps in turn, the parts timed inside; same weights, inputs, "
        f"noise and attention. {' '.join(_comparison(record))}",
        "",
        "| part | reference | ours | times faster | least .. most | by counted operations |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in _rows(record))])


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for part, figures in record["parts"].items():
        faster = figures["faster"]
        medians = (f"{statistics.median(figures[side]):.3f} s" for side in ("reference", "ours"))
        spread = f"{faster['least']:.2f} .. {faster['most']:.2f}, {len(figures['ours'])} runs"
        yield part, *medians, f"{faster['median']:.2f}", spread, f"{figures['faster_by_operations']:.2f}"


def _comparison(record: dict[str, Any]) -> Iterator[str]:
    for name in Outcome._fields:
        worst = max((errors[name] for errors in record["errors"]), key=lambda error: _sortable(error["error"]))
        yield f"Largest difference of {name}: {worst['error']:.1e} (values up to {worst['of']:.1f})."


def _sortable(error: float) -> float:
    return math.inf if math.isnan(error) else error
