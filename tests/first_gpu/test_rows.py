"""Rows that need a GPU, with what they measure exchanged for what a CPU can do."""

import pytest
from torch.nn import functional as F

from benchmarks.first_gpu.rows import Measuring
from livetalk_core.hardware import fused, kernels
from livetalk_core.models import fp8, operations
from livetalk_core.models.passes import PLAIN

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
