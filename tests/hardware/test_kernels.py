"""The attention switch: what is probed, what takes a kernel's place, and what is said about it."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from livetalk_core.errors import InputError
from livetalk_core.hardware import fused, kernels
from livetalk_core.hardware.memory import PeakMemory
from livetalk_core.models import fp8, operations
from livetalk_core.models.attention import attend
from livetalk_core.presets import PRESETS

CPU = torch.device("cpu")
SHAPE = kernels.Shape(CPU, torch.float32, 2, 16)


def on_cpu(monkeypatch, module, **functions):
    """Let a package of these functions be importable, and its kernels run on a CPU."""
    monkeypatch.setattr(kernels, "KERNELS", {k: v._replace(gpu_only=False) for k, v in kernels.KERNELS.items()})
    monkeypatch.setitem(kernels.importlib.sys.modules, module, SimpleNamespace(**functions))


def in_heads_first(q, k, v):
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def test_default_on_a_cpu_is_pytorchs_own():
    assert kernels.choose_attention("auto", SHAPE) is attend
    assert kernels.choose_attention("sdpa", SHAPE) is attend


@pytest.mark.parametrize("name", ["cudnn", "flash2", "flash3", "xformers", "sage"])
def test_a_kernel_of_gpus_falls_back_with_one_line(name, caplog):
    assert kernels.choose_attention(name, SHAPE) is attend
    (message,) = caplog.messages
    assert f"attention {name!r} cannot be used here" in message and "needs a CUDA device" in message
    assert "\n" not in message


def test_a_missing_package_is_named(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "KERNELS", {"sage": kernels.KERNELS["sage"]._replace(gpu_only=False)})
    monkeypatch.setitem(kernels.importlib.sys.modules, "sageattention", None)
    assert kernels.choose_attention("sage", SHAPE) is attend
    assert "sageattention" in caplog.text


def test_a_kernel_that_agrees_is_used(monkeypatch, caplog):
    on_cpu(monkeypatch, "sageattention", sageattn=lambda q, k, v, tensor_layout: in_heads_first(q, k, v))
    parts = kernels._random_parts(kernels.Call(1, 5, 7), SHAPE)
    attention = kernels.choose_attention("sage", SHAPE)
    assert attention is not attend and not caplog.messages
    torch.testing.assert_close(attention(*parts), attend(*parts))


def test_a_kernel_with_a_second_result_is_used(monkeypatch):
    on_cpu(monkeypatch, "flash_attn_interface", flash_attn_func=lambda q, k, v: (in_heads_first(q, k, v), None))
    parts = kernels._random_parts(kernels.Call(1, 5, 7), SHAPE)
    torch.testing.assert_close(kernels.choose_attention("flash3", SHAPE)(*parts), attend(*parts))


@pytest.mark.parametrize("scale", [0.9, float("nan")])
def test_a_kernel_that_gives_other_numbers_is_refused(monkeypatch, caplog, scale):
    on_cpu(monkeypatch, "flash_attn", flash_attn_func=lambda q, k, v: scale * in_heads_first(q, k, v))
    assert kernels.choose_attention("flash2", SHAPE) is attend
    assert "its error against softmax" in caplog.text


def rounded(x: torch.Tensor, steps: float) -> torch.Tensor:
    """To whole steps of the largest value in each row and head: what INT8 products do."""
    scale = x.abs().amax((1, 3), keepdim=True) / steps
    return (x / scale).round() * scale


def like_sage(q, k, v, p_dtype):
    """SageAttention 2's arithmetic: keys without their mean, INT8 products, probabilities and values in `p_dtype`."""
    q, k = rounded(q, 127), rounded(k - k.mean(1, keepdim=True), 127)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
    most = weights.amax(-1, keepdim=True)
    scale = v.abs().amax(-2, keepdim=True) / 448
    rounded_weights = (weights / most * 448).to(p_dtype).float() * most / 448
    return (rounded_weights @ ((v / scale).to(p_dtype).float() * scale)).transpose(1, 2)


PRESET = PRESETS["nano"].sized((64, 64))


@pytest.mark.parametrize("p_dtype", [torch.float16, torch.float8_e4m3fn])
def test_sageattention_is_used_where_it_is_right(monkeypatch, caplog, p_dtype):
    """On older cards it multiplies probabilities and values in float16, on Ada, Hopper and Blackwell in FP8."""
    on_cpu(monkeypatch, "sageattention", sageattn=lambda q, k, v, tensor_layout: like_sage(q, k, v, p_dtype))
    shape = kernels.Shape.of(PRESET, CPU, torch.float32)
    attention = kernels.choose_attention("sage", shape)
    assert attention is not attend and not caplog.messages
    errors = [kernels.relative_error(attention, call, shape) for call in shape.calls]
    assert 1e-3 < max(errors) < kernels.LOSSY_TOLERANCE


@pytest.mark.parametrize("wrong", range(6))
def test_every_way_in_which_the_model_calls_it_is_tried(monkeypatch, caplog, wrong):
    """A kernel that is right everywhere but at one number of keys."""
    shape = kernels.Shape.of(PRESET, CPU, torch.float32)
    call = shape.calls[wrong]

    def kernel(q, k, v):
        asked = kernels.Call(q.shape[0], q.shape[1], k.shape[1])
        return in_heads_first(q, k, v) * (1.05 if asked == call else 1)

    on_cpu(monkeypatch, "flash_attn", flash_attn_func=kernel)
    assert kernels.choose_attention("flash2", shape) is attend
    assert f"at {call.batch} x {call.queries} queries and {call.keys} keys" in caplog.text


def test_a_trial_holds_little_beside_what_a_step_holds():
    """Queries, keys, values and the result in the model's dtype: ComfyUI asks while the model is on the device."""
    call, shape = kernels.Call(1, 4096, 4096), kernels.Shape(CPU, torch.bfloat16, 8, 64)
    part, scores = 4096 * 8 * 64 * 2, 4096 * kernels.COMPARED_QUERIES * 4
    with PeakMemory() as memory:
        kernels.relative_error(lambda q, k, v: torch.empty_like(q), call, shape)
    assert 4 * part < memory.peak < 4 * part + 6 * scores


def test_the_14b_models_calls():
    calls = kernels.Shape.of(PRESETS["14b"], CPU, torch.bfloat16).calls
    assert calls == (
        (1, 12096, 12096),
        (1, 12096, 512),
        (1, 12096, 257),
        (1, 12096, 1344),
        (9, 1344, 32),
        (9, 1344, 64),
    )


@pytest.mark.parametrize("name", [name for name, kernel in kernels.KERNELS.items() if not kernel.traced])
def test_a_foreign_kernel_is_one_operation_of_a_compiled_graph(monkeypatch, name):
    """As they are: one asks for its device, which breaks a graph; another forbids that it is compiled."""
    asked = []

    @torch.compiler.disable
    def foreign(q, k, v, **_):
        asked.append(torch.cuda.is_available())
        return in_heads_first(q, k, v)

    on_cpu(monkeypatch, "flash_attn", flash_attn_func=foreign)
    on_cpu(monkeypatch, "flash_attn_interface", flash_attn_func=foreign)
    on_cpu(monkeypatch, "xformers.ops", memory_efficient_attention=foreign)
    on_cpu(monkeypatch, "sageattention", sageattn=foreign)
    attention = kernels.choose_attention(name, SHAPE)
    assert attention is not attend
    compiled = torch.compile(lambda *x: attention(*x) * 2, fullgraph=True, backend="aot_eager")
    parts = kernels._random_parts(kernels.Call(2, 5, 7), SHAPE)
    asked.clear()
    torch.testing.assert_close(compiled(*parts), attend(*parts) * 2)
    assert asked


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="attention 'fast'; the kernels: auto, sdpa"):
        kernels.choose_attention("fast", SHAPE)


@pytest.fixture
def fp8_operations():
    kernels.fp8_operations.cache_clear()
    yield kernels.fp8_operations
    kernels.fp8_operations.cache_clear()


def test_fp8_on_a_cpu_is_simulated_and_says_so_once(fp8_operations, caplog):
    assert fp8_operations(CPU) is fp8_operations(CPU) is fp8.SimulatedOperations
    (message,) = caplog.messages
    assert "simulated in float32" in message and "\n" not in message


def no_kernel(*_, **__):
    raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9\nmore")


def other_numbers(x, weight, *_, out_dtype, **__):
    return torch.zeros(len(x), weight.shape[1], dtype=out_dtype)


@pytest.fixture
def gpu(monkeypatch):
    """A device by that name, whose layers run on the CPU: it has the kernel, too."""
    probe = kernels._probe_fp8
    monkeypatch.setattr(kernels, "_probe_fp8", lambda _, layer: probe(CPU, layer))
    return torch.device("cuda")


@pytest.mark.parametrize(("kernel", "reason"), [(no_kernel, "only supported on"), (other_numbers, "its error against")])
def test_without_fp8_products_weights_are_multiplied_out(fp8_operations, gpu, monkeypatch, caplog, kernel, reason):
    monkeypatch.setattr(torch, "_scaled_mm", kernel)
    assert fp8_operations(gpu) is operations
    (message,) = caplog.messages
    assert reason in message and "products are not" in message and "\n" not in message


def test_fp8_products_that_agree_are_used(fp8_operations, gpu, caplog):
    assert fp8_operations(gpu) is fp8.Operations
    assert not caplog.messages


def without_rows(product):
    """As PyTorch multiplies on Windows: by one scale for all rows."""

    def multiply(x, weight, scale_x, scale_weight, *bias, **settings):
        if scale_x.numel() > 1:
            raise RuntimeError("Rowwise scaling is not currently supported on your device")
        return product(x, weight, scale_x, scale_weight, *bias, **settings)

    return multiply


@pytest.mark.parametrize(
    ("triton", "operations"),
    [(False, fp8.TensorwiseOperations), (True, fused.Fp8TensorwiseOperations)],
)
def test_where_the_kernel_scales_no_rows_fp8_is_still_multiplied(
    fp8_operations, gpu, monkeypatch, caplog, triton, operations
):
    monkeypatch.setattr(torch, "_scaled_mm", without_rows(torch._scaled_mm))
    monkeypatch.setattr(kernels, "has_triton", lambda: triton)
    monkeypatch.setattr(fused, "_kernels", lambda: SimpleNamespace(to_fp8=lambda x: fp8.scaled(x, rows=True)))
    assert fp8_operations(gpu) is operations
    assert not caplog.messages


@pytest.mark.gpu
def test_default_on_a_gpu_agrees():
    shape = kernels.Shape(torch.device("cuda"), torch.bfloat16, 4, 128)
    parts = [part / 3 for part in kernels._random_parts(kernels.Call(1, 300, 300), shape)]
    torch.testing.assert_close(kernels.choose_attention("auto", shape)(*parts), attend(*parts), atol=2e-2, rtol=0)
