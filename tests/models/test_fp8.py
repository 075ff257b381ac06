"""FP8 layers against a quantisation written out here, number by number, and what they cost."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from livetalk_core.config import TransformerConfig
from livetalk_core.models import fp8, operations
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.shapes import WAN
from livetalk_core.streaming.avatar import Avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step


def rounded(x: Tensor) -> Tensor:
    """The nearest value of 4 exponent and 3 mantissa bits, ties to even: from 2^-6 (smallest normal) to 448."""
    exponent = torch.floor(torch.log2(x.double().abs().clamp(min=2.0**-6)))
    step = 2.0 ** (exponent - 3)
    return (torch.round(x.double() / step) * step).clamp(-448, 448)


def by_hand(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows of both scaled so that the largest becomes 448, rounded, multiplied, scaled back; in float64."""
    row, column = (tensor.double().abs().amax(-1, keepdim=True) / 448 for tensor in (x, weight))
    out = (rounded(x / row) @ rounded(weight / column).T) * row * column.T
    return out if bias is None else out + bias.double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("largest", [1e-4, 1e-3, 1.0])
def test_weights_that_are_multiplied_out_keep_their_scale(dtype, largest):
    """On GPUs without FP8 products; float16 has three numbers below the scale of the first, 37 below the next."""
    layer, x = operations.Linear(64, 8, bias=False), torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(8, 64, generator=torch.Generator().manual_seed(1)) * largest
    values, layer.scale_weight = fp8.scaled(weight, rows=True)
    layer.weight = nn.Parameter(values, requires_grad=False)
    wanted = x @ (values.float() * layer.scale_weight).T
    found = layer((100 * x).to(dtype)).float() / 100
    assert (found - wanted).norm() / wanted.norm() < 5e-3


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def draw(*shape: int, seed: int = 0, outliers: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x + outliers * x**5


def layer(kind: type[fp8.Linear], weight: Tensor, bias: Tensor | None, rows: bool = True) -> fp8.Linear:
    made = kind(*reversed(weight.shape), bias=bias is not None)
    values, made.scale_weight = fp8.scaled(weight, rows)
    made.weight = nn.Parameter(values, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def test_rounding_by_hand_is_the_formats():
    every = torch.arange(256, dtype=torch.uint8).view(fp8.FP8).float()
    every = every[every.isfinite()].sort().values
    assert torch.equal(rounded(every).float(), every)
    x = draw(20_000, outliers=3).clamp(-448, 448)
    assert torch.equal(rounded(x).float(), x.to(fp8.FP8).float())


@pytest.mark.parametrize("kind", [fp8.SimulatedLinear, fp8.Linear, fp8.TensorwiseLinear])
@pytest.mark.parametrize("bias", [None, draw(32, seed=3)])
@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (2, 5, 64)])
def test_a_layer_computes_what_is_written_out(kind, bias, shape):
    """The kernel runs on PyTorch's CPU, too; it gives bfloat16."""
    x, weight = draw(*shape, seed=1, outliers=0.1), draw(32, 64, seed=2)
    found = layer(kind, weight, bias)(x)
    wanted = by_hand(x.flatten(0, -2), weight, bias).view(*shape[:-1], 32)
    assert found.shape == wanted.shape and found.dtype == x.dtype
    rounded_to_bfloat16 = {fp8.Linear: 4e-3, fp8.TensorwiseLinear: 6e-3}
    assert error(found, wanted) < rounded_to_bfloat16.get(kind, 1e-6)
    assert 0.01 < error(found, nn.functional.linear(x, weight, bias)) < 0.06


def test_rows_do_not_share_a_scale():
    """One token 1,000 times larger leaves the others as exact as they were; so does one output row."""
    x, weight = draw(8, 64, seed=1), draw(32, 64, seed=2)
    x[0] *= 1000
    weight[0] *= 1000
    difference = (layer(fp8.SimulatedLinear, weight, None)(x) - x @ weight.T).abs()
    assert (difference < 0.02 * x.norm(dim=1)[:, None] * weight.norm(dim=1)).all()


def test_one_scale_for_all_rows_is_read():
    x, weight = draw(8, 64, seed=1), draw(32, 64, seed=2)
    found = layer(fp8.SimulatedLinear, weight, None, rows=False)
    assert found.scale_weight.shape == ()
    assert 0 < error(found(x), layer(fp8.SimulatedLinear, weight, None)(x)) < 0.05


@pytest.mark.parametrize("x", [torch.zeros(3, 64), torch.full((3, 64), 1e-30), torch.full((3, 64), 1e30)])
def test_empty_and_extreme_rows_stay_finite(x):
    assert layer(fp8.SimulatedLinear, draw(32, 64) * 1e-3, None)(x).isfinite().all()


def test_a_layer_without_fp8_weight_is_the_default_one():
    made, plain = fp8.SimulatedLinear(64, 32), operations.Linear(64, 32)
    plain.load_state_dict(made.state_dict())
    assert torch.equal(made(draw(5, 64)), plain(draw(5, 64)))


def test_the_14b_models_quantized_layers(golden):
    names = json.loads((golden / "checkpoint_keys.json").read_text())["dit_14b"]
    chosen = {name for name in names if fp8.is_quantized(name)}
    assert len(chosen) == 40 * (4 + 6 + 2 + 3)
    assert all(len(names[name]) == 2 for name in chosen)
    others = [name for name in names if name not in chosen and name.startswith("blocks.") and len(names[name]) == 2]
    assert not others


class HandLinear(operations.Linear):
    """Quantised as written out above, from a float weight."""

    def forward(self, x: Tensor) -> Tensor:
        out = by_hand(x.flatten(0, -2), self.weight, self.bias)
        return out.to(x.dtype).unflatten(0, x.shape[:-1])


def golden_transformer(golden, dtype: torch.dtype, layers=operations, quantized: bool = False) -> Transformer:
    with safe_open(golden / "stream.safetensors", "pt") as file:
        config = TransformerConfig(**json.loads(file.metadata()["config"]))
        weights = {name: file.get_tensor(name) for name in file.keys() if name.startswith("weights.dit.")}  # noqa: SIM118
    model = Transformer(config, layers, dtype=dtype)
    model.load_state_dict({name.removeprefix("weights.dit."): tensor for name, tensor in weights.items()})
    model.eval().requires_grad_(False)
    for block in model.blocks if quantized else ():
        fp8.quantize(block)
    return model


def written_out(golden, dtype: torch.dtype) -> Transformer:
    model = golden_transformer(golden, dtype)
    for name, module in model.named_modules():
        if fp8.is_quantized(f"{name}.weight"):
            module.__class__ = HandLinear
    return model


def latent(golden, model: Transformer) -> Tensor:
    """The golden stream's first chunk: 4 steps."""
    with safe_open(golden / "stream.safetensors", "pt") as file:
        names = ("cond", "clip", "text", "audio", *(f"noise.{step:03}" for step in range(4)))
        cond, clip, text, audio, *noise = (file.get_tensor(f"io.{name}") for name in names)
    avatar = Avatar(torch.zeros(1, 3, 1, 64, 48), cond, clip, text)
    engine = LocalEngine(model, VAE, attention=attention)
    return engine.denoise(avatar, audio[:, :33], avatar.first_motion(WAN), torch.stack(noise), ignore_step)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def test_four_steps_are_those_of_the_quantisation_written_out(golden):
    """Two exact simulations differ a little, too: what one rounds up the other rounds down, where float32 decides."""
    wanted = latent(golden, written_out(golden, torch.float32))
    found = latent(golden, golden_transformer(golden, torch.float32, fp8.SimulatedOperations, quantized=True))
    assert error(found, wanted) < 0.02
    plain = latent(golden, golden_transformer(golden, torch.float32))
    assert error(plain, wanted) > 2 * error(found, wanted)


def test_four_steps_differ_little_from_bfloat16(golden):
    wanted = latent(golden, golden_transformer(golden, torch.bfloat16))
    found = latent(golden, golden_transformer(golden, torch.bfloat16, fp8.SimulatedOperations, quantized=True))
    assert 0.001 < error(found, wanted) < 0.06


def test_queries_keys_and_values_share_one_quantisation(golden, monkeypatch):
    """What comes into a block's self-attention is quantised once: 10 layers of a block run in a step."""
    model = golden_transformer(golden, torch.float32, fp8.SimulatedOperations, quantized=True)
    wanted, counted = latent(golden, model), []
    quantise = fp8.scaled
    monkeypatch.setattr(fp8, "scaled", lambda x, rows: counted.append(x.shape) or quantise(x, rows))
    found = latent(golden, model)
    blocks, tokens = len(model.blocks), 9 * (64 // 16) * (48 // 16)
    assert torch.equal(found, wanted)
    assert sum(shape[0] == tokens for shape in counted) == 4 * blocks * 8


def test_an_fp8_step_is_one_graph(golden):
    model = golden_transformer(golden, torch.float32, fp8.SimulatedOperations, quantized=True)
    wanted = latent(golden, model)
    torch.compiler.reset()  # of what other tests have had compiled
    model.evaluate = torch.compile(model.evaluate, fullgraph=True, backend="eager")
    assert error(latent(golden, model), wanted) < 1e-6


@pytest.mark.gpu
def test_a_gpus_kernel_is_its_simulation():
    x, weight, bias = draw(300, 512, seed=1).cuda().bfloat16(), draw(256, 512, seed=2).cuda(), draw(256).cuda()
    found, behind, wanted = (
        layer(kind, weight, bias)(x) for kind in (fp8.Linear, fp8.TensorwiseLinear, fp8.SimulatedLinear)
    )
    assert error(found, wanted) < 0.01
    assert error(behind, wanted) < 0.01
