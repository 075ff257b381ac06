"""A LoRA as `train lora` writes it, behind ComfyUI's own loader."""

import tempfile
from pathlib import Path

import folder_paths
import torch
from checks.common import build, close, denoise, transformer
from livetalk_in_comfyui.livetalk_core.checkpoints.lora import add_lora, write_lora
from livetalk_in_comfyui.livetalk_core.models.fp8 import is_quantized
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import host

from nodes import LoraLoaderModelOnly

RANK, ALPHA = 4, 8


def pairs_for(weights):
    """Factors for every linear layer of every block."""
    generator = torch.Generator().manual_seed(9)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    return {
        name.removesuffix(".weight"): (draw(RANK, tensor.shape[1]), draw(tensor.shape[0], RANK))
        for name, tensor in weights.items()
        if is_quantized(name)
    }


def check_a_trained_lora_by_the_stock_loader_is_what_our_own_gives():
    core, weights = transformer()
    model, pairs = build(weights), pairs_for(weights)
    plain = denoise(LocalEngine(core, None))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "person.safetensors"
        write_lora(path, pairs, ALPHA, {"base": "test"})
        folder_paths.add_model_folder_path("loras", name, is_default=True)
        folder_paths.filename_list_cache.pop("loras", None)
        changed = LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]
        add_lora(core, path)
    assert len(changed.patches) == len(pairs), "the loader knows every layer"
    ours = denoise(LocalEngine(core, None))
    close(denoise(host.HostEngine(changed)), ours, 1e-3)
    assert (ours - plain).abs().max() > 0.05, "it changes nothing"
