"""The MODEL: what it computes, LoRAs, compiling, quantisation, files, and the stock nodes that it works with."""

import dataclasses
import json
import logging
import tempfile
from pathlib import Path

import comfy.sd
import folder_paths
import torch
from checks.common import FIGURES, NANO, F, H, W, build, close, close_in_mean, denoise, stock_vae, transformer
from comfy_extras.nodes_torch_compile import TorchCompileModel
from livetalk_in_comfyui.livetalk_core.checkpoints.convert import convert
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.livetalk_core.hardware.kernels import ANY_MODEL
from livetalk_in_comfyui.livetalk_core.models.transformer import Transformer
from livetalk_in_comfyui.livetalk_core.models.vae import VAE
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import host, loaders
from safetensors import safe_open
from safetensors.torch import save_file

from nodes import LoraLoaderModelOnly, common_ksampler


def check_denoise_equals_the_core():
    model, weights = transformer()
    expected = denoise(LocalEngine(model, VAE(NANO.vae)))
    close(denoise(host.HostEngine(build(weights))), expected, 1e-4)


def check_stock_lora_fits_and_comes_off_again():
    _, weights = transformer()
    model = build(weights)
    key = "blocks.0.self_attn.q"
    shape = weights[f"{key}.weight"].shape
    lora = {
        f"diffusion_model.{key}.lora_up.weight": torch.ones(shape[0], 2),
        f"diffusion_model.{key}.lora_down.weight": torch.ones(2, shape[1]),
    }
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert len(with_lora.patches) == 1, "the LoRA's key was not recognised"
    plain, changed = (denoise(host.HostEngine(m)) for m in (model, with_lora))
    assert (plain - changed).abs().max() > 1e-3, "the LoRA changes nothing"
    assert host.model_identity(model) != host.model_identity(with_lora)
    close(denoise(host.HostEngine(model)), plain, 0)
    close(model.model.diffusion_model.blocks[0].self_attn.q.weight, weights[f"{key}.weight"], 0)


def check_stock_lora_loader_changes_what_merging_changes():
    _, weights = transformer()
    lora, merged = a_lora(weights, strength=0.7)
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.add_model_folder_path("loras", folder, is_default=True)
        save_file(lora, Path(folder) / "talk.safetensors")
        (model,) = LoraLoaderModelOnly().load_lora_model_only(build(weights), "talk.safetensors", 0.7)
        (bypassed,) = LoraLoaderModelOnly().load_lora_model_only(build(weights), "talk.safetensors", 0.0)
    core = Transformer(NANO.transformer)
    plain = denoise(host.HostEngine(build(weights)))
    core.load_state_dict(merged)
    expected = denoise(LocalEngine(core, VAE(NANO.vae)))
    assert (expected - plain).abs().max() > 1e-2, "the LoRA changes nothing"
    close(denoise(host.HostEngine(model)), expected, 1e-4)
    close(denoise(host.HostEngine(bypassed)), plain, 0)


def a_lora(weights, strength):
    """A LoRA of rank 2 with alpha on layers of every kind, and the weights that it makes at a strength."""
    generator = torch.Generator().manual_seed(7)
    lora, merged = {}, dict(weights)
    for key in ("blocks.0.self_attn.q", "blocks.1.ffn.0", "blocks.2.audio_cross_attn.kv_linear", "audio_proj.proj1"):
        rows, columns = weights[f"{key}.weight"].shape
        up, down = (torch.randn(shape, generator=generator) * 0.1 for shape in ((rows, 2), (2, columns)))
        parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}
        lora |= {f"diffusion_model.{key}.{part}": tensor for part, tensor in parts.items()}
        merged[f"{key}.weight"] = weights[f"{key}.weight"] + strength * (1.0 / 2) * up @ down
    return lora, merged


def check_torch_compile_compiles_once():
    _, weights = transformer()
    model, graphs, calls = build(weights), [], []

    def backend(graph, inputs, **_):
        graphs.append(len(graph.graph.nodes))

        def run(*args):
            calls.append(1)
            return graph.forward(*args)

        return run

    compiled = TorchCompileModel.execute(model, backend).args[0]
    expected, found = (denoise(host.HostEngine(m)) for m in (model, compiled))
    first, steps = len(graphs), len(calls)
    assert first, "TorchCompileModel had no effect"
    close(found, expected, 1e-4)
    denoise(host.HostEngine(compiled))
    assert len(graphs) == first, f"compiled again for the next chunk: {first}, then {len(graphs)} graphs"
    assert len(calls) == 2 * steps, "the next chunk did not run compiled"


def check_fp8_is_as_good_as_its_simulation():
    _, weights = transformer()
    config = {"config": json.dumps(dataclasses.asdict(NANO.transformer))}
    with tempfile.TemporaryDirectory() as folder:
        plain, fp8 = (Path(folder) / f"{name}.safetensors" for name in ("plain", "fp8"))
        save_file(weights, plain, config)
        convert(plain, fp8, fp8=True)
        found = denoise(host.HostEngine(loaders.file_transformer(str(fp8))))
        simulated = simulation(fp8, weights)
    core = Transformer(NANO.transformer)
    core.load_state_dict(simulated)
    close_in_mean(found, denoise(LocalEngine(core, VAE(NANO.vae))), 0.1)
    halved = {key: tensor.bfloat16() for key, tensor in weights.items()}
    FIGURES["FP8-scaled against bfloat16"] = close_in_mean(found, denoise(host.HostEngine(build(halved))), 0.2)


def simulation(path, weights):
    """The weights that an FP8-scaled file stands for, in float32."""
    with safe_open(path, "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safetensors handle
    scaled = {key: value.float() for key, value in stored.items() if key in weights}
    factors = [key for key in stored if key.endswith(".scale_weight")]
    assert len(factors) > 10 * NANO.transformer.num_layers, sorted(stored)[:20]
    for key in factors:
        name = key.removesuffix("scale_weight") + "weight"
        scaled[name] = scaled[name] * stored[key].float()
    return scaled


def check_fp8_on_the_way_in_is_what_the_prepared_file_has():
    _, weights = transformer()
    with tempfile.TemporaryDirectory() as folder:
        plain, fp8 = (Path(folder) / f"{name}.safetensors" for name in ("plain", "fp8"))
        save_file(weights, plain)
        convert(plain, fp8, fp8=True)
        loaded, prepared = host.read_weights([plain], fp8=True), host.read_weights([fp8])
    assert loaded.keys() == prepared.keys()
    assert all(torch.equal(loaded[name].float(), prepared[name].float()) for name in loaded)
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {n: t.dtype for n, t in prepared.items()}
    assert host.read_weights([]) == {}


def check_files_load_plain_prefixed_and_scaled_fp8():
    model, weights = transformer()
    expected = denoise(LocalEngine(model, VAE(NANO.vae)))
    config = {"config": json.dumps(dataclasses.asdict(NANO.transformer))}
    with tempfile.TemporaryDirectory() as folder:
        plain, prefixed, fp8 = (Path(folder) / f"{name}.safetensors" for name in ("plain", "prefixed", "fp8"))
        save_file(weights, plain, config)
        save_file({f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()}, prefixed, config)
        convert(plain, fp8, fp8=True)
        for path, tolerance in ((plain, 1e-4), (prefixed, 1e-4), (fp8, 0.5)):
            loaded = loaders.file_transformer(str(path))
            assert path.name in host.model_identity(loaded)
            close(denoise(host.HostEngine(loaded)), expected, tolerance)
        quantised = loaders.file_transformer(str(fp8)).model.diffusion_model.blocks[0].ffn[0].weight
        assert "Quantized" in type(quantised).__name__ or "Quantized" in type(quantised.data).__name__


def check_a_copy_can_be_made_for_another_device():
    model = loaders.embedded_transformer()
    function, arguments = model.cached_patcher_init
    again = function(*arguments, disable_dynamic=True)
    assert not again.is_dynamic()
    close(again.model.diffusion_model.head.head.weight, model.model.diffusion_model.head.head.weight, 0)


def check_attention_override_is_asked():
    _, weights = transformer()
    model = build(weights)
    calls = []

    def override(attention, *args, **kwargs):
        calls.append(1)
        return attention(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    denoise(host.HostEngine(model))
    assert len(calls) == 4 * 4 * NANO.transformer.num_layers + len(ANY_MODEL), "once for each probe, too"


def check_an_attention_that_gives_other_numbers_is_replaced_once_and_said():
    """An override of NaNs, as broken kernels give them, and one that is a tenth off."""
    _, weights = transformer()
    plain, messages = denoise(host.HostEngine(build(weights))), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    for wrong in (float("nan"), 1.1):
        model, calls = build(weights), []

        def override(attention, *args, wrong=wrong, calls=calls, **kwargs):
            calls.append(1)
            return attention(*args, **kwargs) * wrong

        model.model_options["transformer_options"]["optimized_attention_override"] = override
        engine = host.HostEngine(model)
        close(denoise(engine), plain, 1e-3)
        close(denoise(engine), plain, 1e-3)
        assert len(calls) == 1, "the probe alone asks it, and once"
    logging.getLogger().removeHandler(handler)
    assert sum("ComfyUI's attention gives other numbers here" in message for message in messages) == 2


def check_shift_of_the_model_is_used():
    _, weights = transformer()
    model = build(weights)
    shifted = model.clone()
    sampling = type(model.model.model_sampling)(model.model.model_config)
    sampling.set_parameters(shift=1.0)
    shifted.add_object_patch("model_sampling", sampling)
    plain, other = (denoise(host.HostEngine(m)) for m in (model, shifted))
    assert (plain - other).abs().max() > 1e-3


def check_stock_sampler_is_refused():
    _, weights = transformer()
    model = build(weights)
    conditioning = [[torch.zeros(1, 4, NANO.transformer.text_dim), {}]]
    latent = {"samples": torch.zeros(1, 16, F, H, W)}
    try:
        common_ksampler(model, 0, 2, 1.0, "euler", "simple", conditioning, conditioning, latent)
    except InputError as error:
        assert "needs LiveTalk's nodes" in str(error)
    else:
        raise AssertionError("KSampler ran")


def check_other_models_are_refused():
    _, stock = stock_vae()
    try:
        host.require_livetalk(stock.patcher)
    except InputError as error:
        assert "WanVAE" in str(error)
    else:
        raise AssertionError("accepted")
