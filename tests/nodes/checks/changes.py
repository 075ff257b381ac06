"""What stock nodes change of a MODEL: what tells two apart, and what LiveTalk does not use."""

import functools

import torch
from checks.common import build, transformer
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.sd import load_bypass_lora_for_models, load_lora_for_models
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import (
    ModelComputeDtype,
    ModelNoiseScale,
    ModelSamplingAuraFlow,
    ModelSamplingContinuousEDM,
    ModelSamplingContinuousV,
    ModelSamplingDiscrete,
    ModelSamplingFlux,
    ModelSamplingSD3,
    ModelSamplingStableCascade,
    RescaleCFG,
)
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_rope import ScaleROPE
from comfy_extras.nodes_torch_compile import TorchCompileModel
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.nodes import host

LAYER = "blocks.0.self_attn.q"


def a_lora(weights, seed):
    rows, columns = weights[f"{LAYER}.weight"].shape
    generator = torch.Generator().manual_seed(seed)
    parts = {"lora_up": (rows, 2), "lora_down": (2, columns)}
    return {f"diffusion_model.{LAYER}.{name}.weight": torch.randn(s, generator=generator) for name, s in parts.items()}


def check_identity_tells_loras_of_the_same_keys_apart():
    _, weights = transformer()
    model = build(weights)
    for load in (load_lora_for_models, load_bypass_lora_for_models):
        made = [load(model, None, a_lora(weights, seed), 1.0, 0.0)[0] for seed in (1, 2, 1)]
        first, other, again = (host.model_identity(m) for m in made)
        assert first == again, load
        assert first != other, load
        assert first != host.model_identity(model), load
        assert host.unused_changes(made[0]) == []
    stronger = load_lora_for_models(model, None, a_lora(weights, 1), 0.5, 0.0)[0]
    one, two = a_lora(weights, 1), a_lora(weights, 2)
    there = load_lora_for_models(load_lora_for_models(model, None, one, 1, 0)[0], None, two, 1, 0)[0]
    back = load_lora_for_models(load_lora_for_models(model, None, two, 1, 0)[0], None, one, 1, 0)[0]
    assert len({host.model_identity(m) for m in (model, stronger, there, back)}) == 4


def check_identity_tells_the_attention():
    _, weights = transformer()
    plain, changed = build(weights), build(weights).clone()
    changed.set_model_optimized_attention(lambda *args, **_: args[0])
    assert host.model_identity(plain) != host.model_identity(changed)
    assert host.unused_changes(changed) == []


def check_identity_tells_layers_and_wrappers():
    _, weights = transformer()
    plain = build(weights)

    def scaled(factor):
        return lambda executor, *args, **options: factor * executor(*args, **options)

    def wrapped(wrapper):
        changed = plain.clone()
        changed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", wrapper)
        return changed

    def replaced(layer):
        changed = plain.clone()
        changed.add_object_patch(f"diffusion_model.{LAYER}.forward", layer)
        return changed

    wrappers = [scaled(2), scaled(3), functools.partial(pow, 2), functools.partial(pow, 3)]
    made = [*map(wrapped, wrappers), replaced(scaled(2)), replaced(scaled(3)), plain]
    assert len({host.model_identity(model) for model in made}) == len(made)
    assert host.model_identity(wrapped(scaled(2))) == host.model_identity(made[0])
    assert host.unused_changes(made[0]) == host.unused_changes(made[-2]) == []


def check_a_wrapper_in_the_options_is_named_where_it_is_not_called():
    _, weights = transformer()
    changed = build(weights).clone()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        add_wrapper_with_key(kind, f"by {kind}", lambda call, *args: call(*args), changed.model_options, True)
    assert host.unused_changes(changed) == ["by diffusion model"]


def check_a_schedule_of_another_kind_is_refused():
    _, weights = transformer()
    model = build(weights)
    for node, *values in (
        (ModelSamplingDiscrete, "v_prediction", False), (ModelSamplingContinuousEDM, "v_prediction", 120.0, 0.002),
        (ModelSamplingContinuousV, "v_prediction", 500.0, 0.03), (ModelSamplingStableCascade, 2.0),
        (ModelSamplingFlux, 1.15, 0.5, 512, 512),
    ):  # fmt: skip
        try:
            host.require_livetalk(node_result(node, model, *values))
        except InputError as error:
            assert "another noise schedule (ModelSampling" in str(error) or "(StableCascade" in str(error), error
        else:
            raise AssertionError(f"{node.__name__} was taken")
    assert host.shift_of(node_result(ModelSamplingSD3, model, 3.0)) == 3.0
    assert host.shift_of(node_result(ModelSamplingAuraFlow, model, 2.0)) == 2.0


def node_result(node, *args):
    """The MODEL that a stock node gives, V3 or older."""
    if hasattr(node, "execute") and hasattr(node, "define_schema"):
        return node.execute(*args).args[0]
    made = node()
    return getattr(made, node.FUNCTION)(*args)[0]


def check_what_is_not_used_is_named():
    _, weights = transformer()
    model = build(weights)
    assert host.unused_changes(model) == []
    assert host.unused_changes(node_result(ModelSamplingSD3, model, 3.0)) == []
    assert host.unused_changes(node_result(TorchCompileModel, model, "inductor")) == []
    cases = {
        "attn1 output patch": node_result(NAGuidance, model, 5.0, 0.5, 1.5),
        "easycache": node_result(EasyCacheNode, model, 0.2, 0.15, 0.95, False),
        "lazycache": node_result(LazyCacheNode, model, 0.2, 0.15, 0.95, False),
        "context handler": node_result(
            WanContextWindowsManualNode, model, 33, 5, "standard_static", 1, False, "pyramid", False
        ),
        "rope options": node_result(ScaleROPE, model, 2.0, 0.0, 1.0, 0.0, 1.0, 0.0),
        "noise scale": node_result(ModelNoiseScale, model, 2.0),
        "manual cast dtype": node_result(ModelComputeDtype, model, "fp16"),
        "sampler cfg function": node_result(RescaleCFG, model, 0.7),
    }
    for name, changed in cases.items():
        assert name in host.unused_changes(changed), (name, host.unused_changes(changed))
