"""Ours beside a checkout of the reference, chunk by chunk in turn: same weights, inputs, noise and attention kernel.

Both run the whole loop; the parts are timed inside it. What both give is compared too, since a race between different
results says nothing.
"""

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...errors import InputError
from ...hardware.kernels import Shape, choose_attention, name_of
from ...hardware.machine import commit, describe
from ...hardware.memory import meta_models
from ...hardware.placement import Placement, residence
from ...media.image import to_reference
from ...models import operations
from ...models.attention import AttentionFunction, attend
from ...models.codec import build_vae
from ...models.transformer import Transformer
from ...presets import Preset
from ...shapes import VideoShape
from ...streaming.avatar import Avatar
from ...streaming.engine import LocalEngine
from ...streaming.plan import Chunk, ChunkPlan
from ...streaming.session import ChunkEnd, Session, ignore_step
from .flashhead import FlashHead
from .flashtalk import IMAGE_TOKENS, TEXT_TOKENS, FlashTalk
from .parts import check_fit, random_avatar
from .reference import Inputs, MetaInputs, Reference, same_noise
from .stand_ins import quiet
from .stopwatch import DECODE, ENCODE, STEP, Stopwatch, TimedEngine

CHUNK = "chunk"
PARTS = (STEP, DECODE, ENCODE, CHUNK)
SEED = 0
TOLERANCE = 1e-2
"""Largest difference in float32, of the greatest value."""


class Outcome(NamedTuple):
    """What a chunk gives: its new frames [3,n,H,W], and the clean latents [C,k,h,w] that the next one starts from."""

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
    published, needed = _reference_of(preset), residence(preset, dtype, Placement())
    check_fit(preset, device, Placement().dtype_name(dtype), needed.total)
    kernel = choose_attention(attention, Shape.of(preset, device, dtype))
    reference = published(path, kernel)
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
        "reference": {
            "repository": reference.repository,
            "commit": commit(path),
            "stand_ins": reference.stand_ins,
        },
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
    stream, networks = preset.stream, reference.networks(preset, device, dtype)
    fill(networks.transformer, 1)
    fill(networks.vae.model, 2)
    with torch.device("meta"):
        ours, our_vae = Transformer(preset.transformer, dtype=dtype), build_vae(preset.vae, operations, None, dtype)
    weights = reference.weights(networks)
    ours.load_state_dict(weights.transformer, assign=True)
    our_vae.load_state_dict(weights.vae, assign=True)
    inputs, windows = _inputs(preset, device, dtype)
    pipeline = reference.pipeline(preset, networks, inputs, SEED)
    if compiled:
        reference.compile(pipeline)
    portrait = to_reference(inputs.image, stream.height, stream.width)
    avatar = Avatar(portrait, reference.condition(pipeline), inputs.clip, inputs.text)
    engine = LocalEngine(ours.eval(), our_vae.eval(), device, stream.shift, attention, compiled)
    return {
        "reference": _their_side(pipeline, windows, device, stream.motion_frames),
        "ours": _our_side(engine, avatar, windows, preset, dtype, chunks),
    }


def _inputs(preset: Preset, device: torch.device, dtype: torch.dtype) -> tuple[Inputs, Tensor]:
    """A portrait and tokens, and the audio windows of every chunk, all random."""
    stream, widths, generator = preset.stream, preset.transformer, torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (stream.height, stream.width, 3), generator=generator, dtype=torch.uint8)
    text, clip = None, None
    if widths.prompted:
        text = torch.randn(TEXT_TOKENS, widths.text_dim, generator=generator).to(device, dtype)
        clip = torch.randn(1, IMAGE_TOKENS, widths.clip_dim, generator=generator).to(device, dtype)
    shape = (1, stream.frame_num, widths.audio_window, widths.audio_blocks, widths.audio_channels)
    windows = torch.randn(shape, generator=generator).to(device, dtype)
    return Inputs(Image.fromarray(pixels.numpy()), text, clip), windows


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
                    "do not compute the same, so their times are not compared; a checkout of the commit that "
                    "docs/performance.md names is needed"
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
    """Operations of each part on both sides, counted on the meta device: of a step, the mean of a chunk's."""
    works = {"reference": _their_meta_works(reference, preset, dtype), "ours": _our_meta_works(preset, dtype)}
    runs = {STEP: preset.stream.steps}
    return {
        side: {part: _counted(work) // runs.get(part, 1) for part, work in parts.items()}
        for side, parts in works.items()
    }


def _counted(work: Callable[[], Any]) -> int:
    with quiet(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _their_meta_works(reference: Reference, preset: Preset, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    networks, inputs = reference.networks(preset, torch.device("meta"), dtype), MetaInputs.of(preset, dtype)
    step = partial(reference.step, preset, networks.transformer, inputs)
    return {
        STEP: lambda: [step() for _ in range(preset.stream.steps)],
        DECODE: lambda: networks.vae.decode(inputs.latent),
        ENCODE: lambda: networks.vae.encode(inputs.tail),
    }


def _our_meta_works(preset: Preset, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """Ours; what an avatar and the schedule contribute has been computed before."""
    latent, tail, windows = MetaInputs.of(preset, torch.float32)
    stream = preset.stream
    engine = LocalEngine(*meta_models(preset, dtype), "meta", stream.shift)
    avatar = random_avatar(preset, VideoShape(stream.frame_num, stream.height, stream.width))
    noise, motion = latent.expand(stream.steps, *latent.shape), avatar.first_motion(preset.geometry)

    def denoise() -> Tensor:
        return engine.denoise(avatar, windows, motion, noise, ignore_step)

    denoise()
    return {STEP: denoise, DECODE: lambda: list(engine.decode(latent)), ENCODE: lambda: engine.encode(tail[0])}


def _reference_of(preset: Preset) -> type[Reference]:
    """The published implementation of the preset's build."""
    if preset.stream.bridge:
        raise InputError(
            f"preset {preset.name}; LeapTalk's own pipeline is not run here, but its model and VAE are FlashHead "
            "Pro's: use flashhead-pro or small-pro"
        )
    return FlashTalk if preset.transformer.prompted else FlashHead
