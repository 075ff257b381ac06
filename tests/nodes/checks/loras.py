"""A LoRA as `train lora` writes it, behind ComfyUI's own loader."""

import tempfile
from pathlib import Path

import folder_paths
import torch
from checks.common import build, close, denoise, transformer
from comfy.sd import load_bypass_lora_for_models, load_lora_for_models
from livetalk_in_comfyui.livetalk_core.checkpoints.lora import add_lora, write_lora
from livetalk_in_comfyui.livetalk_core.errors import InputError
from livetalk_in_comfyui.livetalk_core.models.fp8 import is_quantized
from livetalk_in_comfyui.livetalk_core.streaming.engine import LocalEngine
from livetalk_in_comfyui.nodes import host

from nodes import LoraLoaderModelOnly

LAYER = "blocks.0.self_attn.q"
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


def formats(rows, columns):
    """A LoRA of a layer of such a weight, in the formats that say its sizes."""
    draw = torch.Generator().manual_seed(4)

    def parts(**shapes):
        return {f"diffusion_model.{LAYER}.{key}": torch.randn(s, generator=draw) * 0.01 for key, s in shapes.items()}

    pair = {"lora_up.weight": (rows, 2), "lora_down.weight": (2, columns)}
    return {
        "lora": parts(**pair),
        "dora": parts(**pair, dora_scale=(rows, 1)),
        "loha": parts(hada_w1_a=(rows, 2), hada_w1_b=(2, columns), hada_w2_a=(rows, 2), hada_w2_b=(2, columns)),
        "lokr": parts(lokr_w1=(4, 4), lokr_w2=(rows // 4, columns // 4)),
        "lokr of factors": parts(
            lokr_w1_a=(4, 2), lokr_w1_b=(2, 4), lokr_w2_a=(rows // 4, 2), lokr_w2_b=(2, columns // 4)
        ),
        "difference": parts(diff=(rows, columns)),
        "bias": parts(diff_b=(rows,)),
        "set": parts(set_weight=(rows, columns)),
    }


def check_a_lora_of_another_models_sizes_is_refused_in_every_format():
    _, weights = transformer()
    model = build(weights)
    rows, columns = weights[f"{LAYER}.weight"].shape
    for load in (load_lora_for_models, load_bypass_lora_for_models):
        for name, lora in formats(rows, columns).items():
            changed = load(model, None, lora, 1.0, 0.0)[0]
            host.check_loras(changed)
            assert host.model_identity(changed) != host.model_identity(model), (name, load)
        for name, lora in formats(2 * rows, columns).items():
            try:
                host.check_loras(load(model, None, lora, 1.0, 0.0)[0])
            except InputError as error:
                assert f"changes {LAYER}" in str(error)
            else:
                raise AssertionError(f"{name} of other sizes was taken, {load.__name__}")


def check_the_smallest_change_of_a_strength_is_another_model():
    _, weights = transformer()
    model = build(weights)
    lora = formats(*weights[f"{LAYER}.weight"].shape)["lora"]
    for load in (load_lora_for_models, load_bypass_lora_for_models):
        one, other = (host.model_identity(load(model, None, lora, s, 0.0)[0]) for s in (1.0, 1.0 + 1e-6))
        assert one != other
