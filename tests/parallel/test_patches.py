"""Patches on a model change what merging them into its weights changes, and leave no trace."""

import copy

import pytest
import torch
from torch import nn

from livetalk_core.errors import InputError
from livetalk_core.models import fp8, operations
from livetalk_core.parallel.patches import Patch, patch_weights, patches_message, patches_of
from livetalk_core.parallel.protocol import Message, pack, unpack

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    conv = operations.Conv3d(3, 8, kernel_size=(1, 2, 2), stride=(1, 2, 2))
    model = nn.ModuleDict({"conv": conv, "norm": operations.LayerNorm(8), "linear": operations.Linear(8, 5)})
    return model.requires_grad_(False)


def outputs(model):
    x = model["conv"](torch.linspace(-1, 1, 3 * 2 * 4 * 4).view(1, 3, 2, 4, 4)).movedim(1, -1)
    return model["linear"](model["norm"](x))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


PATCHES = [
    Patch("linear.weight", 0.5, draw(5, 2), draw(2, 8)),
    Patch("linear.weight", -2.0, draw(5, 3), draw(3, 8)),
    Patch("linear.weight", 0.1, draw(5, 8)),
    Patch("linear.bias", 0.3, draw(5)),
    Patch("conv.weight", 0.2, draw(8, 2), draw(2, 12)),
    Patch("norm.weight", 0.7, draw(8)),
    Patch("norm.weight", -0.2, draw(8)),
]


def merged(model):
    model = copy.deepcopy(model)
    for patch in PATCHES:
        parameter = model.get_parameter(patch.name)
        change = patch.up if patch.down is None else patch.up @ patch.down
        parameter.data += patch.scale * change.view_as(parameter)
    return model


def test_patched_is_merged_and_comes_off_again(model):
    plain, weights = outputs(model), {name: weight.clone() for name, weight in model.state_dict().items()}
    take_off = patch_weights(model, PATCHES, CPU, torch.float32)
    wanted = outputs(merged(model_of(weights, model)))
    assert (wanted - plain).abs().max() > 0.1
    assert (outputs(model) - wanted).abs().max() <= 1e-5
    take_off()
    assert torch.equal(outputs(model), plain)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_what_replaces_a_weight_is_all_that_is_left_of_it(model):
    plain = outputs(model)
    own = {"linear.weight": draw(5, 8), "linear.bias": draw(5), "norm.weight": draw(8)}
    replaced = copy.deepcopy(model)
    for name, weight in own.items():
        replaced.get_parameter(name).data.copy_(weight)
    patches = [PATCHES[0], *(Patch(name, 1.0, weight, replaces=True) for name, weight in own.items())]
    message = patches_message(patches)
    take_off = patch_weights(model, patches_of(*message), CPU, torch.float32)
    assert (outputs(model) - outputs(replaced)).abs().max() <= 1e-5
    take_off()
    assert torch.equal(outputs(model), plain)


def model_of(weights, model):
    model = copy.deepcopy(model)
    for module in model.modules():
        module._forward_hooks.clear()
    model.load_state_dict(weights)
    return model


def test_patches_arrive_as_they_were_sent():
    data = pack(Message("call", 1, *patches_message(PATCHES)))
    header = int.from_bytes(data[:4], "big")
    message = unpack(data[12 : 12 + header], data[12 + header :])
    for found, sent in zip(patches_of(message.fields, message.tensors), PATCHES, strict=True):
        assert found[:2] == sent[:2] and torch.equal(found.up, sent.up)
        assert found.down is sent.down is None or torch.equal(found.down, sent.down)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("other.weight", 1.0, draw(5, 2), draw(2, 8)), "changes other.weight, which this model does not have"),
        (Patch("linear.scale", 1.0, draw(5)), "changes linear.scale, which this model does not have"),
        (
            Patch("linear.weight", 1.0, draw(5, 2), draw(2, 7)),
            r"linear.weight, \[5, 8\], by \[5, 2\] by \[2, 7\], which",
        ),
        (Patch("linear.weight", 1.0, draw(5, 2), draw(3, 8)), "does not fit: use one made for this model"),
        (Patch("norm.weight", 1.0, draw(9)), r"norm.weight, \[8\], by \[9\], which does not fit"),
        (Patch("norm.weight", 1.0, draw(8, 1), draw(1, 2)), "does not fit"),
        (Patch("conv.weight", 1.0, draw(8), draw(12)), "does not fit"),
    ],
)
def test_a_patch_that_does_not_fit_changes_nothing(model, patch, message):
    plain = outputs(model)
    with pytest.raises(InputError, match=message):
        patch_weights(model, [PATCHES[0], PATCHES[3], patch], CPU, torch.float32)
    assert torch.equal(outputs(model), plain)


def test_fp8_weights_stay_as_they_are(model):
    linear, x = model["linear"], draw(3, 8)
    linear.weight = nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
    linear.scale_weight = torch.tensor(2.0)
    wanted = linear(x) + 0.5 * x @ (PATCHES[0].up @ PATCHES[0].down).T
    patch_weights(model, PATCHES[:1], CPU, torch.float32)
    assert (linear(x) - wanted).abs().max() <= 1e-5 and linear.weight.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("replaces", [False, True])
def test_what_was_prepared_for_an_fp8_weight_is_read_as_it_was(replaces):
    linear, x = fp8.SimulatedLinear(8, 5), draw(3, 8)
    weight, linear.scale_weight = fp8.scaled(draw(5, 8), rows=True)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    plain, patch = linear(linear.prepare(x)), Patch("linear.weight", 1.0, draw(5, 8), replaces=replaces)
    patch_weights(nn.ModuleDict({"linear": linear}), [patch], CPU, torch.float32)
    changed = linear.bias * replaces + plain * (not replaces) + x @ patch.up.T
    assert (linear(linear.prepare(x)) - changed).abs().max() <= 1e-5
