"""Rows that need a GPU, with what they measure exchanged for what a CPU can do."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.first_gpu.plan import GPU, MEASURED
from benchmarks.first_gpu.rows import Measuring, memory_of
from benchmarks.first_gpu.table import PARTS, table
from livetalk_core.hardware import fused, kernels
from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.models import fp8, operations
from livetalk_core.models.passes import PLAIN
from livetalk_core.presets import PRESETS

PASSES = ["norm and modulation", "gate", "gate and norm", "sum, norm and modulation", "norm and rotation"]


class Kernels:
    """What Triton's do, by PyTorch; the rotation does not compile."""

    def join_norm(self, x, y, gate, factor, shift, eps):
        joined = x.float() if y is None else x.float() + y * (1 if gate is None else gate)
        normed = joined if factor is None else F.layer_norm(joined, joined.shape[-1:], eps=eps) * factor + shift
        return joined.to(x.dtype), normed.to(x.dtype)

    def norm_rotate(self, *_):
        raise NameError("Cannot access global variable Any\nfrom within")

    def to_fp8(self, x):
        return fp8.scaled(x, rows=True)


class WholeKernels(Kernels):
    """All of what Triton's do."""

    def norm_rotate(self, x, weight, rotation, eps):
        norm = operations.RMSNorm(x.shape[-1], eps=eps)
        norm.weight.data = weight
        return PLAIN.norm_rotate(x, norm, rotation, x.shape[-1] // 2 // rotation.shape[-1]).flatten(2)


@pytest.fixture
def passes(monkeypatch):
    """`passes(kernels)`: the row's values where Triton's kernels are these."""
    caches = fused.passes_for, kernels.fp8_operations
    monkeypatch.setattr(fused, "has_triton", lambda: True)

    def measure(exchanged):
        monkeypatch.setattr(fused, "_kernels", lambda: exchanged)
        return {name: value for values in Measuring("cpu", "nano").row("passes") for name, value in values.items()}

    for cache in caches:
        cache.cache_clear()
    yield measure
    for cache in caches:
        cache.cache_clear()


def test_triton_is_measured_pass_by_pass(passes):
    values = passes(WholeKernels())
    assert values.pop("used") == {"a block's passes": "Triton", "rows to FP8": "PyTorch"}
    assert list(values) == [*PASSES, "rows of 192 to FP8", "rows of 512 to FP8"]
    for name in PASSES:
        assert 1e-4 < values[name]["error"] < 5e-3 and values[name]["ms"] > 0 < values[name]["plain_ms"]
    assert values["rows of 192 to FP8"]["error"] == 0


def test_a_kernel_that_does_not_compile_is_named_and_the_others_are_measured(passes):
    values = passes(Kernels())
    assert values["used"]["a block's passes"] == "PyTorch"
    assert values["norm and rotation"] == "NameError: Cannot access global variable Any"
    assert values["gate"]["error"] < 5e-3 and values["rows of 512 to FP8"]["error"] == 0


def test_memory_is_measured_or_needs_a_gpu():
    placed = residence(PRESETS["nano"], torch.bfloat16, Placement())
    values = memory_of(torch.device("cpu"), placed)
    assert values.pop("peak_bytes") > 2**27
    assert values == {"reserved_bytes": GPU, "info_bytes": placed.total}


def test_every_cell_of_a_model_that_was_measured_says_something():
    timed = {"first_seconds": 1.0, "median": 0.1, "share_of_rate": 0.5}
    values = {part: timed for part in PARTS} | {"busy": GPU, "chunk": {"median": 1.0, "frames_per_second": 28.0}}
    values |= {"peak_bytes": 2**30, "reserved_bytes": GPU, "info_bytes": 2**29}
    said = table({"preset": "nano", "device": "cpu", "rows": {"FP8": {"status": MEASURED, "values": values}}})
    lines = [line for line in said.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == 12 and not any(line.endswith("|  |") for line in lines)
    assert "| reserved | needs a GPU |" in said and "| as `info` counts | 0.50 GiB |" in said
