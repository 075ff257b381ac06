"""What kinds of files become a MODEL, and what it then computes."""

import dataclasses
import json
import tempfile
from pathlib import Path

# The first import finds ComfyUI and loads the pack.
# isort: off
from checks.common import FIGURES, NANO, VAE, Transformer, close, close_in_mean, denoise, host, transformer
from checks.models import InputError, LocalEngine, loaders

import torch
import folder_paths
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from livetalk_in_comfyui.livetalk_core.models.fp8 import is_quantized
from livetalk_in_comfyui.livetalk_core.config import Guidance
from livetalk_in_comfyui.nodes import guidance as guidance_nodes
from livetalk_in_comfyui.nodes import render as render_node
from safetensors.torch import save_file
# isort: on

CONFIG = {"config": json.dumps(dataclasses.asdict(NANO.transformer))}


def quantised(weights, form):
    """The weights as ComfyUI saves them in a format of its own, and what they then stand for, in float32."""
    stored, meant = dict(weights), dict(weights)
    layout = QUANT_ALGOS[form]["comfy_tensor_layout"]
    note = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    for name in filter(is_quantized, weights):
        tensor = QuantizedTensor.from_float(weights[name], layout, scale="recalculate")
        del stored[name]
        stored |= {key: part.contiguous() for key, part in tensor.state_dict(name).items()}
        stored[f"{name.removesuffix('weight')}comfy_quant"] = note.clone()
        meant[name] = tensor.dequantize().float()
    assert len(stored) > len(weights) + 20 * NANO.transformer.num_layers, sorted(stored)[:20]
    return stored, meant


def core_of(weights):
    """What the core computes with these weights."""
    core = Transformer(NANO.transformer)
    core.load_state_dict(weights)
    return denoise(LocalEngine(core, VAE(NANO.vae)))


def loaded(weights, patch=None):
    """The MODEL of a file of these weights, with a patch of those."""
    with tempfile.TemporaryDirectory() as folder:
        path, added = Path(folder) / "model.safetensors", Path(folder) / "patch.safetensors"
        save_file(weights, path, CONFIG)
        if patch:
            save_file(patch, added)
        return loaders.file_transformer(str(path), str(added) if patch else "")


def as_good_as_its_simulation(form, tolerance):
    """A file in a format loads as such, and gives what its weights stand for."""
    _, weights = transformer()
    stored, meant = quantised(weights, form)
    model = loaded(stored)
    layer = model.model.diffusion_model.blocks[0].ffn[0]
    assert layer.quant_format == form and isinstance(layer.weight, QuantizedTensor)
    found = denoise(host.HostEngine(model))
    FIGURES[f"{form} against its simulation"] = close_in_mean(found, core_of(meant), tolerance)
    FIGURES[f"{form} against float32"] = close_in_mean(found, core_of(weights), 1.0)


def check_int8_is_as_good_as_its_simulation():
    as_good_as_its_simulation("int8_tensorwise", 0.1)


def check_nvfp4_is_as_good_as_its_simulation():
    as_good_as_its_simulation("nvfp4", 0.1)


def wan_and_patch(weights):
    """A Wan 2.1 model, which has no audio layers, and a patch that has these alone."""
    added = {n for n in weights if n.startswith("audio_proj.") or ".audio_cross_attn." in n or ".norm_x." in n}
    return {n: t for n, t in weights.items() if n not in added}, {n: weights[n] for n in added}


def check_wan_with_a_patch_is_the_joined_model():
    _, weights = transformer()
    base, patch = wan_and_patch(weights)
    model = loaded({f"model.diffusion_model.{name}": tensor for name, tensor in base.items()}, patch)
    assert guidance_nodes.guidance_of(model) == Guidance()
    assert guidance_nodes.guidance_of(model.clone()) == Guidance(), "a LoRA loader's copy forgets it"
    assert model.get_model_object("model_sampling").shift == 7.0
    core = Transformer(NANO.transformer)
    core.load_state_dict(weights)
    expected = denoise(LocalEngine(core, VAE(NANO.vae), shift=7.0, guidance=Guidance()))
    close(denoise(render_node.fleet.engine_for(model, NANO.stream)), expected, 1e-4)


def check_a_quantised_wan_takes_a_plain_patch():
    _, weights = transformer()
    base, patch = wan_and_patch(weights)
    stored, meant = quantised(weights, "int8_tensorwise")
    stored = {name: tensor for name, tensor in stored.items() if not any(name.startswith(n[:-6]) for n in patch)}
    model = loaded(stored, patch)
    core = Transformer(NANO.transformer)
    core.load_state_dict(meant | patch)
    assert base.keys() >= {name for name in meant if name not in patch}
    expected = denoise(LocalEngine(core, VAE(NANO.vae), shift=7.0, guidance=Guidance()))
    close_in_mean(denoise(render_node.fleet.engine_for(model, NANO.stream)), expected, 0.1)


def check_guidance_equals_the_cores():
    _, weights = transformer()
    base, patch = wan_and_patch(weights)
    model = loaded(base, patch)
    negative = [[torch.full((1, 5, NANO.transformer.text_dim), 0.5), {}]]
    marked = guidance_nodes.SetGuidance.execute(model, 5.0, 4.0, negative).args[0]
    calls = []
    engine = render_node.fleet.engine_for(marked, NANO.stream, on_estimate=lambda latent: calls.append(latent.shape))
    core = Transformer(NANO.transformer)
    core.load_state_dict(weights)
    by = {"shift": 7.0, "guidance": Guidance(5.0, 4.0), "negative": negative[0][0][0]}
    expected = denoise(LocalEngine(core, VAE(NANO.vae), **by))
    close(denoise(engine), expected, 1e-3 * float(expected.abs().max()))
    assert len(calls) == 4, "one preview a step, of the guided estimate"
    assert (expected - denoise(render_node.fleet.engine_for(model, NANO.stream))).abs().max() > 1e-2, (
        "guidance changes nothing"
    )


def check_guidance_by_text_needs_a_negative_prompt():
    _, weights = transformer()
    model = loaded(*wan_and_patch(weights))
    try:
        guidance_nodes.SetGuidance.execute(model, 5.0, 4.0)
    except InputError as error:
        assert "set text_guidance to 1" in str(error)
    else:
        raise AssertionError("accepted")
    assert guidance_nodes.SetGuidance.execute(model, 1.0, 2.0).args[0] is not model


def check_examples_are_placed_once_and_never_over_the_users():
    before = folder_paths.get_input_directory(), folder_paths.get_user_directory()
    with tempfile.TemporaryDirectory() as folder:
        inputs, settings = Path(folder) / "input", Path(folder) / "user" / "default" / "comfy.settings.json"
        inputs.mkdir()
        settings.parent.mkdir(parents=True)
        folder_paths.set_input_directory(str(inputs))
        folder_paths.set_user_directory(str(settings.parents[1]))
        try:
            settings.write_text(json.dumps({"LiveTalk.PlaceExamples": False}))
            host.place_examples()
            assert not list(inputs.iterdir()), "placed against the user's will"
            settings.write_text("no JSON")
            (inputs / "livetalk_speech.wav").write_text("the user's")
            host.place_examples()
            assert (inputs / "livetalk_portrait.png").read_bytes().startswith(b"\x89PNG")
            assert (inputs / "livetalk_speech.wav").read_text() == "the user's"
        finally:
            folder_paths.set_input_directory(before[0])
            folder_paths.set_user_directory(before[1])
