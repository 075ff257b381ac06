"""The rows: each a generator of values, so that what is cut off keeps what it had."""

import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from livetalk_core.commands.bench.parts import (
    Models,
    Noise,
    build_models,
    build_transformer,
    copy_rate,
    matrix_rate,
    random_avatar,
    time_work,
    works_of,
)
from livetalk_core.commands.bench.race import race
from livetalk_core.commands.verify.file import Where
from livetalk_core.commands.verify.golden import verify
from livetalk_core.hardware import fused
from livetalk_core.hardware.kernels import KERNELS, Call, Shape, fp8_operations, relative_error
from livetalk_core.hardware.machine import describe, peak_memory
from livetalk_core.hardware.memory import operations_of
from livetalk_core.hardware.placement import Placement, Residence, residence
from livetalk_core.models import fp8
from livetalk_core.models.attention import AttentionFunction
from livetalk_core.models.passes import PLAIN
from livetalk_core.presets import PRESETS, Preset
from livetalk_core.shapes import VideoShape
from livetalk_core.streaming.features import LiveFeatures
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.session import ChunkEnd, Session

from . import plan
from .plan import GPU, Needs
from .supervisor import ROOT

Values = Iterator[dict[str, Any]]
Work = Callable[[], tuple[torch.Tensor, ...]]
REPEATS, CHUNKS = 3, 3
STEP = "transformer step"


@dataclass
class Measuring:
    """What is measured on which device. `reference` is a checkout of it, or nothing."""

    device: str
    preset: str
    reference: str | None = None

    def row(self, name: str) -> Values:
        """A row's values."""
        if name in plan.MODELS:
            return self._model(*plan.MODELS[name])
        return {
            plan.MACHINE: self._machine,
            plan.EXACT: lambda: self._golden(torch.float32),
            plan.LOSSY: lambda: self._golden(torch.bfloat16),
            plan.ATTENTION: self._attention,
            plan.PASSES: self._passes,
            plan.TESTS: gpu_tests,
            plan.REFERENCE: self._reference,
        }[name]()

    @cached_property
    def _place(self) -> torch.device:
        return torch.device(self.device)

    @cached_property
    def _preset(self) -> Preset:
        return PRESETS[self.preset]

    @cached_property
    def _rate(self) -> float:
        return matrix_rate(self._place, torch.bfloat16)

    def _machine(self) -> Values:
        yield {"machine": describe()}
        if self._place.type == "cuda":
            properties = torch.cuda.get_device_properties(self._place)
            yield {
                "gpu": properties.name, "memory_bytes": properties.total_memory,
                "capability": [properties.major, properties.minor], "cuda": torch.version.cuda,
            }  # fmt: skip
        yield {"matrix_operations_per_second": self._rate}
        yield {"copied_bytes_per_second": copy_rate(self._place)}

    def _golden(self, dtype: torch.dtype) -> Values:
        """Every row of every golden file: its error, the most that is allowed."""
        for path in sorted((ROOT / "tests" / "golden").glob("*.safetensors")):
            try:
                for row in verify(path, where=Where(self._place, dtype)):
                    yield {f"{path.stem}: {row.name}": {"error": row.error, "allowed": row.tolerance}}
            except Exception as error:  # a file that cannot be computed here does not keep the others from it
                yield {path.stem: _reason(error)}

    def _attention(self) -> Values:
        """Each kernel: its largest error over all calls of the model, and its speed at the largest of them."""
        dtype = torch.bfloat16
        shape = Shape.of(self._preset, self._place, dtype)
        largest = max(shape.calls, key=lambda call: call.batch * call.queries * call.keys)
        for name, kernel in KERNELS.items():
            if kernel.gpu_only and self._place.type != "cuda":
                yield {name: GPU}
                continue
            try:
                yield {name: self._attended(kernel.load(), shape, largest)}
            except Exception as error:
                yield {name: _reason(error)}

    def _attended(self, attention: AttentionFunction, shape: Shape, largest: Call) -> dict[str, float]:
        place: Any = {"device": shape.device, "dtype": shape.dtype}
        counts = (largest.queries, largest.keys, largest.keys)
        parts = [torch.randn(largest.batch, count, shape.heads, shape.head_dim, **place) for count in counts]
        error = max(relative_error(attention, call, shape) for call in shape.calls)
        seconds = time_work(lambda: attention(*parts), self._place, REPEATS)["least"]
        work = 4 * largest.batch * largest.queries * largest.keys * shape.heads * shape.head_dim
        return {"error": error, "ms": seconds * 1e3, "share_of_rate": work / seconds / self._rate}

    def _passes(self) -> Values:
        """What is between a block's products: who does it, and Triton's kernels one by one.

        Of each the error, milliseconds, and those of PyTorch's own.
        """
        config, dtype = self._preset.transformer, torch.bfloat16
        shape: Any = (self._place, dtype, config.dim, config.num_heads)
        used = {
            "a block's passes": isinstance(fused.passes_for(*shape), fused.Fused),
            "rows to FP8": issubclass(fp8_operations(self._place).Linear, fused.Fp8Linear),
        }
        yield {"used": {part: "Triton" if ours else "PyTorch" for part, ours in used.items()}}
        tokens = Shape.of(self._preset, self._place, dtype).calls[0].queries
        tried, plain = (fused.trials(way, *shape, rows=tokens // 2) for way in (fused.Fused(), PLAIN))
        exact = fused.trials(PLAIN, self._place, torch.float32, *shape[2:], rows=tokens // 2)
        for name, work in plain.items():
            yield {name: self._beside(tried[name], work, exact[name])}
        for width in (config.dim, config.ffn_dim):
            x = torch.randn(tokens, width, device=self._place).to(dtype)
            tried, plain = (partial(_through_fp8, kind, x) for kind in (fused.Fp8Linear, fp8.Linear))
            yield {f"rows of {width} to FP8": self._beside(tried, plain, plain)}

    def _beside(self, tried: Work, plain: Work, exact: Work) -> dict[str, float] | str:
        """A kernel's error and speed beside the plain way; or why it does not run."""
        try:
            with torch.inference_mode():
                error = fused.error_of(tried(), exact())
                least = [time_work(way, self._place, REPEATS)["least"] * 1e3 for way in (tried, plain)]
        except Exception as reason:
            return _reason(reason)
        return {"error": error, "ms": least[0], "plain_ms": least[1]}

    def _model(self, compiled: bool, fp8: bool, streamed: bool) -> Values:
        """Load, each part, whole chunks, memory."""
        preset, device, dtype, begun = self._preset, self._place, torch.bfloat16, time.perf_counter()
        placement = Placement(fp8, half_streamed(preset, dtype) if streamed else None)
        placed = residence(preset, dtype, placement)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        transformer = build_transformer(preset, device, dtype, placement, placed.streamed)
        models = build_models(preset, transformer, device, dtype, "auto", compiled)
        yield {"load_seconds": time.perf_counter() - begun, "blocks_on_device": [placed.blocks, placed.of]}
        yield from self._parts_of(preset, models, dtype)
        yield from self._chunks(models)
        yield memory_of(device, placed)

    def _parts_of(self, preset: Preset, models: Models, dtype: torch.dtype) -> Values:
        counts = operations_of(preset, preset.stream.height, preset.stream.width, dtype)
        for part, work in works_of(preset, models, self._place).items():
            begun = time.perf_counter()
            work()
            first = time.perf_counter() - begun
            seconds = time_work(work, self._place, REPEATS)
            values: dict[str, Any] = {"first_seconds": first, **seconds}
            if part in counts:
                values["share_of_rate"] = counts[part] / seconds["median"] / self._rate
            yield {part: values}
            if part == STEP:
                yield {"busy": busy(work, self._place) if self._place.type == "cuda" else GPU}

    def _chunks(self, models: Models) -> Values:
        """Whole chunks from sound to frames in main memory, and when the first new frame was there."""
        stream, device = self._preset.stream, self._place
        sound = ChunkPlan.of((1 + CHUNKS) * stream.new_frames, stream, live=True)
        avatar = random_avatar(self._preset, VideoShape(stream.frame_num, stream.height, stream.width))
        features: Any = LiveFeatures(Noise(), models.encoder, sound)  # pyright: ignore[reportArgumentType]
        session = Session(models.engine, avatar, features, sound, stream, ahead=device.type != "cpu")
        seconds, firsts, begun, first = [], [], time.perf_counter(), 0.0
        for event in session.run(session.start(0)):
            if isinstance(event, ChunkEnd):
                seconds.append(time.perf_counter() - begun)
                firsts.append(first)
                begun, first = time.perf_counter(), 0.0
                if len(seconds) > 1:
                    yield {"chunk": _summary(seconds[1:], firsts[1:], stream.new_frames)}
            else:
                assert event.pixels.numel()
                first = first or time.perf_counter() - begun

    def _reference(self) -> Values:
        if not self.reference:
            raise Needs("a checkout of the reference: --reference PATH")
        dtype = torch.float32 if self._place.type == "cpu" else torch.bfloat16
        record = race(Path(self.reference), self._preset, self._place, dtype, REPEATS)
        yield {name: record[name] for name in ("dtype", "attention", "compiled", "errors", "parts")}


def memory_of(device: torch.device, placed: Residence) -> dict[str, int | str]:
    """What was held at most, what PyTorch took for it (a GPU's allocator alone says so), and what `info` counts."""
    reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else GPU
    return {"peak_bytes": peak_memory(device), "reserved_bytes": reserved, "info_bytes": placed.total}


def half_streamed(preset: Preset, dtype: torch.dtype) -> int:
    """The memory with which about half of the FP8 blocks have to be streamed."""
    placed = residence(preset, dtype, Placement(fp8=True))
    return placed.total - placed.needed["transformer weights"] // 2


def _through_fp8(kind: type[fp8.Linear], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows as a kind of layer quantises them, and their scales."""
    _, values, scale = kind(x.shape[-1], 16, device="meta").quantized(x)
    return values, scale


def busy(work: Callable[[], Any], device: torch.device) -> float:
    """The share of its time in which the GPU computes; the rest are gaps, where it waits for the host."""
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begun
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / seconds


def gpu_tests() -> Values:
    """The tests that are for GPUs alone."""
    if importlib.util.find_spec("pytest") is None:
        raise Needs("pytest")
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    yield {"summary": lines[-1], "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))]}


def _summary(seconds: list[float], firsts: list[float], new_frames: int) -> dict[str, Any]:
    median = statistics.median(seconds)
    values = {"median": median, "least": min(seconds), "most": max(seconds), "first_frame": statistics.median(firsts)}
    return values | {"frames_per_second": new_frames / median if median else math.inf}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
