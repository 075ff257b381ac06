"""What workers are given of a MODEL that stock nodes changed, and how they share a device's memory with ComfyUI."""

import gc
import re

import comfy.model_management
import comfy.sd
import torch
from checks.common import NANO, build, close, denoise, transformer
from checks.models import a_lora
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.livetalk_core.models.vae import VAE
from livetalk_in_comfyui.livetalk_core.parallel.patches import patch_weights, patches_message, patches_of
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import host


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
