"""A block's passes by Triton's kernels: their numbers, when they are used, and what takes their place."""

import importlib
import json
import logging
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from livetalk_core.config import TransformerConfig
from livetalk_core.hardware import fused
from livetalk_core.models import operations
from livetalk_core.models.passes import PLAIN, Modulation, Passes
from livetalk_core.models.transformer import Transformer

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
ROOT = Path(__file__).resolve().parents[2]
ROUNDING = {"float32": 2e-6, "float16": 5e-4, "bfloat16": 4e-3}
"""Root-mean-square errors that rounding to a dtype makes, twice at most."""
CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=1, freq_dim=32, text_len=8, text_dim=12, clip_dim=10,
    audio_blocks=2, audio_channels=6, intermediate_dim=16, output_dim=12, context_tokens=3,
)  # fmt: skip


def printed(module):
    """What a process of its own prints, as JSON."""
    if not fused.has_triton():
        pytest.skip("needs triton, whose interpreter and compiler need no GPU: pip install triton")
    done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    return printed("tests.hardware.interpreted")


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("width", ["nano", "odd"])
def test_kernels_give_the_plain_numbers(interpreted, width, dtype):
    errors = interpreted["passes"][f"{width} {dtype}"]
    assert len(errors) == 5 and max(errors.values()) < ROUNDING[dtype], errors
    assert dtype == "float32" or min(errors.values()) > ROUNDING[dtype] / 20, "it is not in this dtype"


@pytest.fixture(scope="module")
def compiled():
    return printed("tests.hardware.compiled")


def test_they_compile_for_gpus_that_are_not_here(compiled):
    """The interpreter has none of the compiler's rules: it ran kernels that no GPU could have."""
    passes, to_fp8 = 5, 2
    assert {capability: len(kernels) for capability, kernels in compiled.items()} == {
        "80": passes, "89": passes + to_fp8, "90": passes + to_fp8, "120": passes + to_fp8,
    }  # fmt: skip
    for kernels in compiled.values():
        for name, used in kernels.items():
            assert used["registers"] <= 128 and used["spilled"] <= 16, name


def test_the_kernel_quantises_as_pytorch_does(interpreted):
    assert interpreted["fp8"]["values"] == 0 and interpreted["fp8"]["scales"] < 1e-7


def test_the_references_numbers_by_these_kernels(interpreted):
    """Transformers, and a stream's chunks, each of which starts from the one before."""
    rows = interpreted["golden"]
    assert len(rows) == 5 and {"chunk.0", "chunk.1", "chunk.2"} <= rows["stream_lite"].keys()
    assert all(0 < max(errors.values()) < 0.2 for errors in rows.values()), rows


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_they_are_used_and_exact():
    passes = fused.passes_for(GPU, torch.bfloat16, 5120, 40)
    assert isinstance(passes, fused.Fused)
    assert max(fused.errors_of(passes, GPU, torch.bfloat16, 5120, 40).values()) < ROUNDING["bfloat16"]


class Wrong(Passes):
    """Adds no branch that has no gate."""

    def join(self, x_BLC, y_BLC, gate_B1C=None):
        return x_BLC if gate_B1C is None else super().join(x_BLC, y_BLC, gate_B1C)


def test_a_fault_is_found_and_named():
    assert fused.fault_of(PLAIN, CPU, torch.bfloat16, 48, 4) == ""
    assert fused.fault_of(Wrong(), CPU, torch.float32, 48, 4).startswith("sum, norm and modulation differs by ")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """`on_a_gpu(kernels)`: the passes chosen for a GPU, whose kernels are these functions on the CPU."""
    trial = fused.fault_of
    monkeypatch.setattr(fused, "fault_of", lambda passes, _, *shape: trial(passes, CPU, *shape))
    monkeypatch.setattr(fused, "has_triton", lambda: True)

    def choose(kernels):
        monkeypatch.setattr(fused, "_kernels", lambda: kernels)
        with torch.no_grad():
            return fused.passes_of(Transformer(CONFIG), GPU)

    fused.passes_for.cache_clear()
    yield choose
    fused.passes_for.cache_clear()


class Kernels:
    """What `triton_kernels` does, by PyTorch."""

    def __init__(self, scale=1.0):
        self.scale, self.calls = scale, []

    def join_norm(self, x, y, gate, factor, shift, eps):
        self.calls.append("join_norm")
        joined = x if y is None else x + y * (1 if gate is None else gate)
        if factor is None:
            return joined.to(x.dtype) * self.scale, x
        normed = torch.nn.functional.layer_norm(joined.float(), joined.shape[-1:], eps=eps) * factor + shift
        return joined.clone(), normed.to(x.dtype)

    def norm_rotate(self, x, weight, rotation, eps):
        self.calls.append("norm_rotate")
        norm = operations.RMSNorm(x.shape[-1], eps=eps)
        norm.weight.data = weight
        return PLAIN.norm_rotate(x, norm, rotation, x.shape[-1] // 2 // rotation.shape[-1]).flatten(2)


def test_kernels_that_agree_are_used(on_a_gpu, caplog):
    assert isinstance(on_a_gpu(kernels := Kernels()), fused.Fused)
    assert kernels.calls.count("join_norm") == 4 and kernels.calls.count("norm_rotate") == 1
    assert not caplog.messages


@pytest.fixture
def copy_of_fused(monkeypatch):
    """`hardware.fused` of a second copy of the pack in this process."""
    names = [copy := "livetalk-copy", f"{copy}.livetalk_core"]
    for name, folder in zip(names, (ROOT, ROOT / "livetalk_core"), strict=True):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, name, package)
    yield importlib.import_module(f"{names[1]}.hardware.fused")
    for name in [name for name in sys.modules if name.startswith(copy) and name not in names]:
        del sys.modules[name]


def test_another_copy_of_the_pack_has_operations_of_its_own(on_a_gpu, copy_of_fused, monkeypatch):
    monkeypatch.setattr(copy_of_fused, "_kernels", lambda: None)
    assert isinstance(on_a_gpu(Kernels()), fused.Fused)
    assert copy_of_fused.NAMESPACE != fused.NAMESPACE


@pytest.mark.parametrize(
    ("kernels", "reason"), [(Kernels(1.1), "gate differs by 10.0%"), (None, "AttributeError: 'NoneType'")]
)
def test_kernels_that_fail_are_replaced_with_one_line(on_a_gpu, caplog, kernels, reason):
    with caplog.at_level(logging.WARNING):
        assert on_a_gpu(kernels) is PLAIN
    (message,) = caplog.messages
    assert "Triton's kernels cannot be used here" in message and reason in message and "\n" not in message


def test_without_triton_or_a_gpu_they_are_pytorchs_own(on_a_gpu, monkeypatch, caplog):
    model = Transformer(CONFIG)
    with torch.inference_mode():
        assert fused.passes_of(model, CPU) is PLAIN
        monkeypatch.setattr(fused, "has_triton", lambda: False)
        assert fused.passes_of(model, GPU) is PLAIN and not caplog.messages


def test_where_gradients_are_taken_they_are_pytorchs_own(on_a_gpu):
    """The kernels have none: ComfyUI's node that trains a LoRA calls the model as its sampler does."""
    assert isinstance(on_a_gpu(Kernels()), fused.Fused)
    assert fused.passes_of(Transformer(CONFIG), GPU) is PLAIN


def test_layers_of_others_with_weights_are_called():
    """ComfyUI's, for one: theirs may be elsewhere, or changed on their way."""

    class Doubling(torch.nn.LayerNorm):
        def forward(self, x):
            return 2 * x

    x, y, passes, norm = torch.randn(1, 3, 8), torch.randn(1, 3, 8), fused.Fused(), Doubling(8)
    by, rotation = Modulation(*torch.randn(3, 1, 1, 8)), torch.stack([torch.ones(3, 2), torch.zeros(3, 2)])
    assert torch.equal(passes.norm(x, norm), 2 * x)
    assert torch.equal(passes.norm(x, norm, by), PLAIN.norm(x, norm, by))
    joined, normed = passes.join_norm(x, y, None, norm)
    assert torch.equal(joined, x + y) and torch.equal(normed, 2 * (x + y))
    assert torch.equal(passes.norm_rotate(x, norm, rotation, 2).flatten(2), 2 * x)


def test_what_is_compiled_is_plain():
    """In place of kernels that torch.compile could not look into; there are none here to be called."""
    model, passes = Transformer(CONFIG), fused.Fused()
    block, x, by = model.blocks[0], torch.randn(1, 3, 48), Modulation(*torch.randn(3, 1, 1, 48))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    rotation = torch.stack([torch.ones(3, 6), torch.zeros(3, 6)])

    def run(of):
        joined, normed = of.join_norm(x, of.norm(x, block.norm1, by), by.gate_B1C, block.norm3)
        return of.norm_rotate(of.join(normed, joined, by.gate_B1C), block.self_attn.norm_q, rotation, 4)

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(passes), run(PLAIN))
