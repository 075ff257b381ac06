"""LoRA files: written as ComfyUI names them, read in its names and Kohya's, added, and refused on another model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints.lora import add_lora, read_lora, write_lora
from livetalk_core.errors import CheckpointError

SHAPES = {"blocks.0.self_attn.q": (6, 4), "blocks.1.ffn.2": (4, 8)}


def pairs(rank: int = 2):
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator))
        for name, (rows, columns) in SHAPES.items()
    }


class Model(torch.nn.Module):
    """Two layers under the published names."""

    def __init__(self, rows: int = 6) -> None:
        super().__init__()
        first = torch.nn.ModuleDict({"self_attn": torch.nn.ModuleDict({"q": torch.nn.Linear(4, rows)})})
        second = torch.nn.ModuleDict({"ffn": torch.nn.ModuleList([torch.nn.Identity()] * 2 + [torch.nn.Linear(8, 4)])})
        self.blocks = torch.nn.ModuleList([first, second])


def test_what_is_written_is_named_as_comfyui_reads_it(tmp_path):
    write_lora(tmp_path / "a.safetensors", pairs(), 4.0, {"base": "nano"})
    tensors = load_file(tmp_path / "a.safetensors")
    names = {
        f"diffusion_model.{layer}.{part}" for layer in SHAPES for part in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    assert set(tensors) == names
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


@pytest.mark.parametrize("kohya", [False, True])
def test_a_lora_changes_weights_by_alpha_over_rank(tmp_path, kohya):
    path, model = tmp_path / "a.safetensors", Model()
    write_lora(path, pairs(), 4.0, {})
    if kohya:
        names = {"lora_A": "lora_down", "lora_B": "lora_up"}
        tensors = load_file(path)
        for old, new in names.items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        save_file(tensors, path)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    add_lora(model, path, strength=0.5)
    for layer, (down, up) in pairs().items():
        change = model.get_parameter(f"{layer}.weight") - before[f"{layer}.weight"]
        assert torch.allclose(change, 0.5 * 4 / 2 * up @ down, atol=2e-2)
    assert torch.equal(model.get_parameter("blocks.1.ffn.2.bias"), before["blocks.1.ffn.2.bias"])


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    write_lora(path, pairs(), 4.0, {})
    model = Model(rows=7)
    before = model.get_parameter("blocks.1.ffn.2.weight").clone()
    with pytest.raises(CheckpointError, match=r"LoRA .*a\.safetensors does not fit: .*blocks\.0\.self_attn\.q\.weight"):
        add_lora(model, path)
    assert torch.equal(model.get_parameter("blocks.1.ffn.2.weight"), before), "nothing is changed by half"
    tensors = load_file(path)
    damaged = {
        "one of a pair": {name: tensor for name, tensor in tensors.items() if "q.lora_B" not in name},
        "of another kind": {**tensors, "diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(6)},
        "no LoRA": {"blocks.0.self_attn.q.weight": torch.ones(6, 4)},
    }
    for name, content in damaged.items():
        save_file(content, tmp_path / "b.safetensors")
        with pytest.raises(CheckpointError, match="is no LoRA that is read here"):
            read_lora(tmp_path / "b.safetensors")
        assert name
