"""Run by ComfyUI's interpreter: `in_comfyui.py CHECKOUT RESULTS [CHECK ...]`. Holds `nodes/host` against ComfyUI.

Each function named `check_...` is one check; RESULTS becomes a JSON object of check -> error, or null where it passed.
"""

import dataclasses
import gc
import importlib.util
import json
import re
import sys
import tempfile
import traceback
from pathlib import Path

CHECKOUT, RESULTS = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))
ONLY = sys.argv[3:]
sys.argv = ["main.py", "--cpu", "--fp32-text-enc"]  # fp16 text and vision encoders round by 0.003

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.clip_vision  # noqa: E402
import comfy.latent_formats  # noqa: E402
import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_torch_compile import TorchCompileModel  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from nodes import LoraLoaderModelOnly, common_ksampler  # noqa: E402


def import_pack(name):
    """The pack under a made-up name, as ComfyUI's loader does it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


import_pack("livetalk_in_comfyui")

from livetalk_in_comfyui.livetalk_core.checkpoints.convert import convert  # noqa: E402
from livetalk_in_comfyui.livetalk_core.config import PRESETS  # noqa: E402
from livetalk_in_comfyui.livetalk_core.errors import InputError  # noqa: E402
from livetalk_in_comfyui.livetalk_core.models.transformer import Transformer  # noqa: E402
from livetalk_in_comfyui.livetalk_core.models.vae import VAE  # noqa: E402
from livetalk_in_comfyui.livetalk_core.parallel.patches import (  # noqa: E402
    patch_weights,
    patches_message,
    patches_of,
)
from livetalk_in_comfyui.livetalk_core.streaming.avatar import Avatar  # noqa: E402
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine  # noqa: E402
from livetalk_in_comfyui.nodes import host, loaders  # noqa: E402
from livetalk_in_comfyui.nodes.host.vae import vae_patcher  # noqa: E402

NANO = PRESETS["nano"]
F, H, W = 3, 8, 8
FIGURES = {}
"""What was measured along the way."""


def weights_of(model, seed):
    """Random weights of a model's shapes, such that no path is zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor):
        noise = torch.randn(tensor.shape, generator=generator)
        return noise * 0.05 if tensor.ndim > 1 and tensor.shape[-1] > 1 else 1 + noise * 0.05

    return {key: draw(tensor) for key, tensor in model.state_dict().items()}


def transformer():
    """The core's transformer on the default layers, and its weights."""
    model = Transformer(NANO.transformer)
    weights = weights_of(model, 1)
    model.load_state_dict(weights)
    return model, weights


def build(weights):
    """A MODEL of nano's widths."""
    return host.build_model("test", NANO.transformer, dict(weights), (build, (weights,)), False)


def stock_vae():
    """The core's VAE on the default layers, and the stock VAE of the same weights."""
    model = VAE(NANO.vae)
    weights = weights_of(model, 2)
    model.load_state_dict(weights)
    return model, host.stock_vae(weights)


def chunk():
    """An avatar, audio windows, motion latents and noise."""
    generator = torch.Generator().manual_seed(3)
    config = NANO.transformer

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    avatar = Avatar(
        draw(1, 3, 1, 8 * H, 8 * W), draw(20, F, H, W), draw(1, 65, config.clip_dim), draw(9, config.text_dim)
    )
    audio = draw(1, 1 + 4 * (F - 1), 5, config.audio_blocks, config.audio_channels)
    return avatar, audio, draw(16, 2, H, W), draw(4, 16, F, H, W)


def denoise(engine):
    """One chunk."""
    steps = []
    latent = engine.denoise(*chunk(), steps.append)
    assert steps == [1, 2, 3, 4]
    return latent


def close(a, b, tolerance):
    """Assert that two tensors agree within `tolerance` (max abs)."""
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    error = (a.float() - b.float()).abs().max().item()
    assert error <= tolerance, f"differ by {error:.3g}, at most {tolerance} is allowed"


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


def check_workers_are_given_what_stock_nodes_change():
    """LoRAs of two strengths and plain differences change there what ComfyUI's own merging changes here."""
    _, weights = transformer()
    lora, _ = a_lora(weights, strength=1.0)
    names = ("blocks.0.self_attn.q.bias", "blocks.1.norm3.weight", "patch_embedding.weight", "blocks.2.ffn.2.weight")
    differences = {name: torch.randn_like(weights[name]) * 0.1 for name in names}
    lora |= {f"diffusion_model.{name}".replace(".weight", ".diff").replace(".bias", ".diff_b"): difference
             for name, difference in differences.items()}  # fmt: skip
    model = build(weights)
    for strength in (0.7, -0.3):
        model, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)
    patches = host.plain_patches(model)
    assert len(patches) == 2 * (4 + len(names)), [patch.name for patch in patches]
    core, _ = transformer()
    plain = denoise(LocalEngine(core, VAE(NANO.vae)))
    take_off = patch_weights(core, patches_of(*patches_message(patches)), torch.device("cpu"), torch.float32)
    expected = denoise(host.HostEngine(model))
    assert (expected - plain).abs().max() > 1e-2, "the patches change nothing"
    close(denoise(LocalEngine(core, VAE(NANO.vae))), expected, 1e-4)
    take_off()
    close(denoise(LocalEngine(core, VAE(NANO.vae))), plain, 0)


def check_workers_are_not_given_what_cannot_be_sent():
    _, weights = transformer()
    key, rows = "diffusion_model.blocks.0.self_attn.q", len(weights["blocks.0.self_attn.q.weight"])
    thin, wide = torch.ones(rows, 2), torch.ones(2, rows)
    low_rank = {f"{key}.lora_up.weight": thin, f"{key}.lora_down.weight": wide}
    hada = {f"{key}.hada_w{n}_{part}": tensor for n in (1, 2) for part, tensor in (("a", thin), ("b", wide))}
    for kind, lora in (("DoRA", low_rank | {f"{key}.dora_scale": torch.ones(rows, 1)}), ("loha", hada)):
        model, _ = comfy.sd.load_lora_for_models(build(weights), None, lora, 1.0, 0.0)
        refused(lambda model=model: host.plain_patches(model), f"{key}.weight is changed by .*{kind}")
    merged = build(weights)
    merged.add_patches(build(weights).get_key_patches(f"{key}."), 0.5, 0.5)
    refused(lambda: host.plain_patches(merged), "is changed by a merge")
    bypassed, _ = comfy.sd.load_bypass_lora_for_models(build(weights), None, low_rank, 1.0, 0.0)
    refused(lambda: host.plain_patches(bypassed), "a bypassed LoRA")


def check_workers_give_their_memory_back_when_comfyui_asks():
    device, running = comfy.model_management.get_torch_device(), [True]
    lease = host.Lease(str(device), 10**6, lambda: bool(running), running.clear)
    for _ in range(2):
        host.claim([lease])
        assert running, "ended by being used again"
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert loaded.count(lease) == 1 and comfy.model_management.current_loaded_models[0].model_loaded_memory() == 10**6
    comfy.model_management.unload_all_models()
    assert not running and lease.loaded_size() == 0
    host.claim([lease])
    running.append(True)
    comfy.model_management.free_memory(10**15, device)
    assert not running
    del lease, loaded
    gc.collect()
    assert not [entry for entry in comfy.model_management.current_loaded_models if entry.model is None]


def refused(work, message):
    """Assert that `work` raises an `InputError` with `message`."""
    try:
        work()
    except InputError as error:
        assert re.search(message, str(error)), str(error)
    else:
        raise AssertionError("accepted")


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


def close_in_mean(a, b, tolerance):
    """Assert that |a - b| is at most `tolerance` of |b|, by root mean square; gives what it is."""
    error = ((a - b).square().mean() / b.square().mean()).sqrt().item()
    assert error <= tolerance, f"differ by {error:.1%}, at most {tolerance:.0%} is allowed"
    return error


class Enlarger(torch.nn.Module):
    """Repeats pixels: across `x` times, down `y` times."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image.repeat_interleave(self.y, 2).repeat_interleave(self.x, 3) + self.bias


def upscale_model(x, y):
    """What Load Upscale Model gives, as far as upscaling reads it."""
    module = Enlarger(x, y)
    device = torch.device("cpu")

    class Descriptor:
        scale = y
        patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=device)

        def __call__(self, image):
            return module(image)

    return Descriptor()


def check_upscaler_enlarges_each_frame():
    probe = torch.rand(1, 3, 1, 600, 80) * 2 - 1  # higher than one tile
    upscaler = host.Upscaler(upscale_model(2, 2), probe)
    frames = torch.rand(3, 4, 600, 80) * 2 - 1
    assert upscaler.scale == 2
    close(upscaler(frames), frames.repeat_interleave(2, 2).repeat_interleave(2, 3), 1e-5)


def check_upscaler_refuses_another_aspect():
    try:
        host.Upscaler(upscale_model(1, 2), torch.zeros(1, 3, 1, 64, 64))
    except InputError as error:
        assert "1 times as wide and 2 times as high" in str(error)
    else:
        raise AssertionError("accepted")


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
    assert len(calls) == 4 * 4 * NANO.transformer.num_layers


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


def check_cancel_stops_at_the_next_step():
    _, weights = transformer()
    engine = host.HostEngine(build(weights))
    progress = host.Progress(4)
    done = []

    def on_step(step):
        progress.on_step(step)
        done.append(step)
        comfy.model_management.interrupt_current_processing()

    try:
        engine.denoise(*chunk(), on_step)
    except comfy.model_management.InterruptProcessingException:
        assert done == [1]
    else:
        raise AssertionError("not interrupted")
    finally:
        comfy.model_management.interrupt_current_processing(False)


def interrupted(work):
    """Run `work` with the Cancel button pressed, and again without; it must stop, then run."""
    comfy.model_management.interrupt_current_processing()
    try:
        work()
    except comfy.model_management.InterruptProcessingException:
        work()
    else:
        raise AssertionError("not interrupted")


def check_cancel_stops_decoding_between_groups():
    _, stock = stock_vae()
    engine = host.HostEngine(vae=stock)
    interrupted(lambda: list(engine.decode(torch.zeros(16, F, H, W))))


def check_cancel_stops_upscaling_between_frames():
    upscaler = host.Upscaler(upscale_model(2, 2), torch.zeros(1, 3, 1, 64, 64))
    interrupted(lambda: upscaler(torch.zeros(3, 2, 64, 64)))


def check_cancel_stops_loading_between_files():
    _, weights = transformer()
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, Path(folder) / "model.safetensors")
        interrupted(lambda: host.read_weights([Path(folder) / "model.safetensors"]))


def check_vae_equals_stock_and_the_core():
    ours, stock = stock_vae()
    engine = host.HostEngine(vae=stock)
    latent = torch.randn(16, F, H, W, generator=torch.Generator().manual_seed(4))
    frames = torch.cat(list(engine.decode(latent)), dim=1)
    close(frames, ours.decode(latent[None])[0], 1e-5)
    theirs = stock.decode(comfy.latent_formats.Wan21().process_out(latent[None]))
    close((frames.permute(1, 2, 3, 0) + 1) / 2, theirs.reshape(-1, *theirs.shape[-3:]), 1e-5)
    close(engine.encode(frames), ours.encode(frames[None])[0], 1e-4)


def check_vae_is_built_once_and_shares_its_weights():
    _, stock = stock_vae()
    first = vae_patcher(stock)
    assert vae_patcher(stock) is first
    key = "decoder.conv1.weight"
    assert first.model.state_dict()[key].data_ptr() == stock.get_sd()[key].data_ptr()


def check_other_vaes_are_refused():
    class Other:
        pass

    _, stock = stock_vae()
    stock.get_sd = lambda: {"encoder.conv_in.weight": torch.zeros(1)}
    try:
        vae_patcher(stock)
    except InputError as error:
        assert "not Wan 2.1's" in str(error)
    else:
        raise AssertionError("accepted")


def check_other_models_are_refused():
    _, stock = stock_vae()
    try:
        host.require_livetalk(stock.patcher)
    except InputError as error:
        assert "WanVAE" in str(error)
    else:
        raise AssertionError("accepted")


def check_image_tokens_are_the_references():
    path = ROOT / "tests" / "golden" / "image.safetensors"
    with safe_open(path, "pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safetensors handle
    clip = comfy.clip_vision.ClipVisionModel(
        {
            "num_hidden_layers": about["num_layers"], "hidden_size": about["dim"], "hidden_act": "gelu",
            "num_attention_heads": about["num_heads"], "intermediate_size": 4 * about["dim"],
            "image_size": about["image_size"], "patch_size": about["patch_size"], "num_channels": 3,
            "model_type": "clip_vision_model", "projection_dim": 16,
        }
    )  # fmt: skip
    missing, _ = clip.load_sd(transformers_keys(golden, about["num_layers"]))
    assert not missing, missing
    close(host.image_tokens(clip, golden["io.frame"]), golden["io.out"], 1e-4)


def transformers_keys(golden, layers):
    """The vision encoder's weights under the keys of `transformers`, which stock ComfyUI uses."""
    source = {key.removeprefix("weights.visual."): value for key, value in golden.items()}
    model = {
        "embeddings.class_embedding": source["cls_embedding"].flatten(),
        "embeddings.patch_embedding.weight": source["patch_embedding.weight"],
        "embeddings.position_embedding.weight": source["pos_embedding"][0],
    }
    for theirs, ours in (("pre_layrnorm", "pre_norm"), ("post_layernorm", "post_norm")):
        model |= {f"{theirs}.{part}": source[f"{ours}.{part}"] for part in ("weight", "bias")}
    names = {"self_attn.out_proj": "attn.proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    names |= {"layer_norm1": "norm1", "layer_norm2": "norm2"}
    for layer in range(layers):
        theirs, ours = f"encoder.layers.{layer}", f"transformer.{layer}"
        for part in ("weight", "bias"):
            model |= {f"{theirs}.{a}.{part}": source[f"{ours}.{b}.{part}"] for a, b in names.items()}
            qkv = source[f"{ours}.attn.to_qkv.{part}"].chunk(3)
            model |= {f"{theirs}.self_attn.{n}_proj.{part}": x for n, x in zip("qkv", qkv, strict=True)}
    return {"visual_projection.weight": source["head"].T} | {f"vision_model.{key}": v for key, v in model.items()}


def run(check):
    """The traceback of a check, or None."""
    try:
        with torch.inference_mode():
            check()
    except BaseException:
        return traceback.format_exc()
    return None


checks = {name: check for name, check in globals().items() if name.startswith("check_")}
only = ONLY or list(checks)
RESULTS.write_text(json.dumps({name: run(checks[name]) for name in only} | {"figures": FIGURES}))
