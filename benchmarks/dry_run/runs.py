"""The program's own way to a video, run on a device that is not there, and what must be so on the way."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from livetalk_core.checkpoints import load
from livetalk_core.checkpoints.model import Model
from livetalk_core.config import CorrectionConfig, Guidance, StreamConfig
from livetalk_core.hardware import fused
from livetalk_core.hardware.placement import Placement, Residence, place, residence
from livetalk_core.models import attention, blocks, fp8, passes, transformer
from livetalk_core.models.audio_encoder import AudioEncoder
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.parallel import mesh
from livetalk_core.parallel.sequence import split_sequence
from livetalk_core.parallel.vae import SplitVAE
from livetalk_core.presets import PRESETS, Preset
from livetalk_core.streaming import engine as streaming_engine
from livetalk_core.streaming import finite, session
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.features import SpeakersFeatures, speech_features
from livetalk_core.streaming.plan import ChunkPlan

from .device import CUDA, pretended
from .watch import Event, Watch

END, INPUTS = "chunk's end", "inputs"
DENOISE, BLOCKS = "denoise", "denoise: blocks"
"""A chunk's steps: what is beside the transformer's blocks, and these."""
WARM = 1
"""Chunks in which what is kept is still being made."""
UPLOADS = 4
"""Copies to the device that a chunk may take, none of them waited for: sound, motion, noise, the tail's frames."""


@dataclass(frozen=True)
class Case:
    """One way to make a video."""

    name: str
    chunks: int = 3
    mode: str = "window"
    placement: Placement = field(default_factory=Placement)
    speakers: int = 1
    guidance: Guidance | None = None
    correction: bool = False
    steps: int = 4
    frames: int | None = None
    blocks: int = 40
    ranks: int = 1
    dtype: torch.dtype = torch.bfloat16
    fused: bool = False
    """Whether Triton's kernels do what is between products."""

    @property
    def layers(self) -> Any:
        """The `operations` of the case's transformer."""
        if not self.placement.fp8:
            return load.default_operations
        return fused.Fp8Operations if self.fused else fp8.Operations

    @property
    def preset(self) -> Preset:
        """The 14B model with the case's blocks."""
        large = PRESETS["14b"]
        return replace(large, transformer=replace(large.transformer, num_layers=self.blocks))


@dataclass
class Report:
    """What a case took on the device, and what should not have been. `peaks` are bytes, by stage; `promised` is what
    `info` says of one device.
    """

    case: Case
    peaks: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)
    promised: Residence | None = None

    @property
    def peak(self) -> int:
        """Most bytes on the device at once, from the first part loaded to the last chunk."""
        return max(self.peaks.values(), default=0)

    def stage(self, name: str) -> None:
        """Close a stage: its peak."""
        self.peaks[name] = max(self.peaks.get(name, 0), self.watch.peak)
        self.watch.peak = self.watch.live


class Sound:
    """Noise, as long as is asked for."""

    samples, sample_rate, seconds, fingerprint = 16_000 * 60, 16_000, 60.0, "noise"

    def read(self, _start: int, count: int, _rate: int, mono: bool) -> np.ndarray:
        """See `AudioSource.read`."""
        return np.random.default_rng(0).standard_normal((1, count)).astype(np.float32) / 8

    def statistics(self, _: int) -> Any:
        """See `AudioSource.statistics`."""
        return SimpleNamespace(loudness=-20.0, mean=0.0, variance=0.01)


def run(case: Case, folder: Path | None = None) -> Report:
    """Load, make the avatar, render the chunks. What the device would refuse, and what is not allowed, are faults.

    Without a folder of files, transformer, VAE and audio encoder are made on the device, and the encoders left out.
    """
    report = Report(case)
    try:
        with _last_of(case.ranks), pretended(report.watch):
            _render(report, _open(case, folder) if folder else _made(case))
    except Exception as error:  # whatever PyTorch refuses is what is looked for
        report.faults.append(f"{type(error).__name__}: {error}".splitlines()[0])
    report.events = list(report.watch.events)
    return report


@contextmanager
def _last_of(ranks: int) -> Iterator[None]:
    """Be the last of so many ranks, which alone has padding; the others are not there."""
    if ranks == 1:
        yield
        return
    dist.init_process_group("fake", rank=ranks - 1, world_size=ranks, store=FakeStore())
    mesh._new_group.cache_clear()
    try:
        yield
    finally:
        dist.destroy_process_group()
        mesh._new_group.cache_clear()


def _made(case: Case) -> Model:
    """The model's parts without files, and stand-ins of the encoders' results."""
    preset = case.preset
    streamed = residence(preset, case.dtype, case.placement).streamed
    factory: Any = {"device": "cpu" if case.placement else CUDA, "dtype": case.dtype}

    def built() -> Transformer:
        model: Any = Transformer(preset.transformer, case.layers, **factory).eval().requires_grad_(False)
        return place(model, CUDA, case.placement.fp8, streamed) if case.placement else model

    def part(module: Callable[..., nn.Module], config: Any, **settings: Any) -> Any:
        with CUDA:
            return module(config, **settings).eval().requires_grad_(False)

    return Model(
        "made", preset, lambda *_: torch.zeros(24, dtype=torch.long), lambda: "made", built,
        lambda: part(VAE, preset.vae, dtype=case.dtype), lambda: part(AudioEncoder, preset.audio),
        lambda: _Stands(torch.zeros(1, 257, preset.image.dim)), lambda: _Stands(torch.zeros(24, preset.text.dim)),
    )  # fmt: skip


class _Stands:
    """An encoder that gives what it was told to."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def preprocess(self, reference: Tensor) -> Tensor:
        """See `ImageEncoder.preprocess`."""
        return reference

    def embed(self, _: Tensor) -> Tensor:
        """See `ImageEncoder.embed`."""
        return self.tokens

    def encode(self, *_: Any) -> Tensor:
        """See `TextEncoder.encode`."""
        return self.tokens


def _render(report: Report, model: Model) -> None:
    case, watch = report.case, report.watch
    report.promised = residence(model.preset, case.dtype, case.placement)
    (text,) = model.encode_texts("a")
    report.stage("text encoder")
    clip = model.encode_image(torch.zeros(1, 3, 1, model.preset.stream.height, model.preset.stream.width))
    report.stage("vision encoder")
    assert model.audio_encoder
    built = model.transformer
    assert model.vae
    _check_weights(report, model)
    report.stage("transformer")
    stream = _stream(case, model.preset.stream)
    with ExitStack() as stack:
        stack.enter_context(_two_speakers())
        by = fused.Fused() if case.fused else passes.PLAIN  # no trial: there is nothing that could compute it
        stack.enter_context(patch.object(streaming_engine, "passes_of", lambda *_: by))
        codec: Any = model.vae
        if case.ranks > 1:
            built, codec = split_sequence(built, mesh.Mesh.of(built.config.num_heads)), SplitVAE(codec)
        engine = LocalEngine(
            built, codec, CUDA, stream.shift, attention.attend, guidance=stream.guidance,
            negative=None if stream.guidance is None else torch.zeros(9, model.preset.transformer.text_dim),
        )  # fmt: skip
        masks = torch.ones(3, stream.height, stream.width) if case.speakers == 2 else None
        reference = torch.zeros(1, 3, 1, stream.height, stream.width)
        avatar = prepare_avatar(reference, clip, text, engine.encode, stream, masks)
        report.stage("avatar")
        stack.enter_context(_phases(watch))
        plan = ChunkPlan.of(stream.frame_num + (case.chunks - 1) * stream.new_frames, stream, case.mode == "stream")
        features: Any = speech_features(Sound(), model.audio_encoder, plan, case.mode)  # pyright: ignore[reportArgumentType]
        features = SpeakersFeatures([features] * 2) if case.speakers == 2 else features
        talk = session.Session(_Phased(engine, watch), avatar, features, plan, stream)
        _chunks(report, talk)


def _open(case: Case, folder: Path) -> Model:
    with patch.object(load, "_tokenizer", lambda *_: None):
        model = load.open_model(folder, CUDA, case.dtype, None, case.layers, home="cpu" if case.placement else None)
    model = replace(model, tokenizer=lambda *_: torch.zeros(24, dtype=torch.long))
    if not case.placement:
        return model
    streamed = residence(model.preset, case.dtype, case.placement).streamed
    return replace(model, load_transformer=lambda: place(model.load_transformer(), CUDA, case.placement.fp8, streamed))


def _stream(case: Case, default: StreamConfig) -> StreamConfig:
    correction = CorrectionConfig(interval=1, lookback=1) if case.correction else None
    longer = {"frame_num": 81, "motion_frames": 9} if case.guidance else {}
    shorter = {"frame_num": case.frames} if case.frames else {}
    return replace(default, steps=case.steps, correction=correction, guidance=case.guidance, **(longer | shorter))


def _check_weights(report: Report, model: Model) -> None:
    """Every weight on the device and of the dtype that was asked for, but those that are streamed or in FP8."""
    for part, module in (("transformer", model.transformer), ("VAE", model.vae)):
        for name, weight in module.named_parameters():
            streamed = weight.device.type == "cpu" and report.case.placement.memory is not None
            if weight.dtype not in (report.case.dtype, fp8.FP8):
                report.faults.append(f"{part}: {name} is {weight.dtype}")
            if weight.device.type != "cuda" and not streamed:
                report.faults.append(f"{part}: {name} is on {weight.device}")


def _chunks(report: Report, talk: session.Session) -> None:
    watch, live = report.watch, []
    for event in talk.run(talk.start(0)):
        if isinstance(event, session.Frames):
            _check_views(report, "between two groups of frames")
            continue
        del event
        _check_views(report, "between two chunks")
        index = len(live)
        report.stage(f"chunk {index}")
        if index >= WARM:
            _check_loop(report, index)
            if watch.live > live[-1]:
                report.faults.append(f"chunk {index}: {watch.live - live[-1]} bytes more are held than before it")
        live.append(watch.live)
        if index + 1 < talk.plan.count:  # the last one's counts stay to be read
            for counts in (watch.waits, watch.copies, watch.kernels, watch.moved, watch.products):
                counts.clear()


def _check_views(report: Report, when: str) -> None:
    if held := report.watch.held_by_views():
        report.faults.append(f"{when}: views keep {len(held)} buffers of {sum(held) / 2**20:.0f} MiB alive")


def _check_loop(report: Report, index: int) -> None:
    """The host waits once a chunk, at its end; copies only what comes in; and products are of the weights' dtype."""
    watch, at = report.watch, f"chunk {index}"
    for (phase, what), count in watch.waits.items():
        if phase not in (END, INPUTS):
            report.faults.append(f"{at}, {phase}: the host waits {count} times ({what})")
    ends = sum(count for (phase, _), count in watch.waits.items() if phase == END)
    if ends != 1:
        report.faults.append(f"{at}, {END}: the host waits {ends} times")
    uploads = sum(count for (phase, _), count in watch.copies.items() if phase not in (END, INPUTS))
    most = UPLOADS + report.case.correction  # the last frame shown, too
    if uploads > most and not report.case.placement.memory:
        report.faults.append(f"{at}: {uploads} copies between host and device; at most {most} are its inputs")
    step = [(dtype, count) for (phase, dtype), count in watch.products.items() if phase in (DENOISE, BLOCKS)]
    total, wide = sum(n for _, n in step), sum(n for dtype, n in step if dtype == torch.float32)
    if wide > 0.01 * total:
        report.faults.append(f"{at}: {wide / total:.0%} of a step's products are in float32")


class _Phased:
    """An engine whose verbs are counted apart."""

    def __init__(self, engine: LocalEngine, watch: Watch) -> None:
        self.engine, self.watch = engine, watch

    def denoise(self, *arguments: Any) -> Tensor:
        """See `Engine.denoise`."""
        with self.watch.phase(DENOISE):
            return self.engine.denoise(*arguments)

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        groups = self.engine.decode(latent)
        while True:
            with self.watch.phase("decode"):
                group = next(groups, None)
            if group is None:
                return
            yield group

    def encode(self, frames: Tensor) -> Tensor:
        """See `Engine.encode`."""
        with self.watch.phase("encode"):
            return self.engine.encode(frames)


def _phases(watch: Watch) -> ExitStack:
    """Count a chunk's inputs and its one read apart."""
    stack = ExitStack()

    def under(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with watch.phase(name):
                return function(*arguments)

        return call

    for owner, name, phase in ((finite.Watch, "read", END), (session.Session, "_inputs", INPUTS)):
        stack.enter_context(patch.object(owner, name, under(phase, getattr(owner, name))))
    stack.enter_context(patch.object(blocks.BaseBlock, "forward", under(BLOCKS, blocks.BaseBlock.forward)))
    watch.name = "session"
    return stack


def _two_speakers() -> Any:
    """Masks are looked at once per avatar, number by number; here they have no numbers."""

    def masks(masks_3hw: Tensor, grid: tuple[int, int, int], *_: Any) -> Tensor:
        return torch.ones(3, grid[1] * grid[2], device=masks_3hw.device)

    return patch.object(transformer, "token_masks", masks)
