"""Little memory on the graphics card: models that are loaded in part, or not at all, compute the same.

On a CPU ComfyUI never loads in part; here its `LoadedModel` is told how much fits, as `--lowvram` and `--novram` do.
"""

from contextlib import contextmanager

import comfy.model_management as memory
import comfy.sd
import torch
from checks.common import F, H, W, build, close, denoise, stock_vae, transformer
from checks.models import a_lora
from livetalk_in_comfyui.livetalk_core.models.transformer import Transformer
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import host
from livetalk_in_comfyui.nodes.host.vae import vae_patcher

NOTHING = 0.1
"""Bytes: what ComfyUI says for none, since 0 means all."""


@contextmanager
def room_for(size):
    """Let at most `size` bytes of each model be loaded."""
    real = memory.LoadedModel.model_load

    def model_load(loaded, lowvram_model_memory=0, force_patch_weights=False):
        return real(loaded, size, force_patch_weights)

    memory.LoadedModel.model_load = model_load
    try:
        yield
    finally:
        memory.LoadedModel.model_load = real
        memory.unload_all_models()


def check_a_model_loaded_in_part_computes_the_same():
    _, weights = transformer()
    model = build(weights)
    expected, size = denoise(host.HostEngine(model)), model.model_size()
    for room in (size // 2, NOTHING):
        memory.unload_all_models()
        with room_for(room):
            close(denoise(host.HostEngine(model)), expected, 0)
            loaded = model.loaded_size()
        assert loaded <= room, f"{loaded} of {size} bytes are loaded; {room} were allowed"
        assert room < 1 or loaded > size // 4, f"only {loaded} of {size} bytes are loaded; {room} were allowed"


def check_every_layer_can_be_streamed():
    model = build(transformer()[1]).model.diffusion_model
    stuck = [
        name
        for name, module in model.named_modules()
        if not list(module.children()) and list(module.parameters()) and not hasattr(module, "comfy_cast_weights")
    ]
    assert not stuck, f"layers that must be loaded whole: {stuck}"


def check_a_lora_counts_in_a_model_that_is_not_loaded():
    _, weights = transformer()
    lora, merged = a_lora(weights, strength=0.7)
    core = Transformer(build(weights).model.diffusion_model.config)
    core.load_state_dict(merged)
    expected = denoise(LocalEngine(core, None))
    model, _ = comfy.sd.load_lora_for_models(build(weights), None, lora, 0.7, 0.0)
    with room_for(NOTHING):
        close(denoise(host.HostEngine(model)), expected, 1e-4)


def check_the_vae_loaded_in_part_computes_the_same():
    _, stock = stock_vae()
    engine = host.HostEngine(vae=stock)
    latent = torch.randn(16, F, H, W, generator=torch.Generator().manual_seed(4))
    expected = torch.cat(list(engine.decode(latent)), dim=1)
    again = engine.encode(expected)
    memory.unload_all_models()
    with room_for(NOTHING):
        close(torch.cat(list(engine.decode(latent)), dim=1), expected, 0)
        close(engine.encode(expected), again, 0)
        assert vae_patcher(stock).loaded_size() <= NOTHING
