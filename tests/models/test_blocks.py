"""The block that hears without reading a prompt: compiled, in FP8, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch._dynamo.testing import CompileCounterWithBackend

from livetalk_core.config import TransformerConfig
from livetalk_core.errors import InputError
from livetalk_core.hardware.compiling import compiled_block
from livetalk_core.models import fp8, operations
from livetalk_core.models.transformer import Transformer

UNREAD = ("text_embedding.", "audio_emb.")


class Head:
    """A golden file's transformer and its inputs."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.config = TransformerConfig.published(json.loads(file.metadata()["config"]))
        self.io = {name.removeprefix("io."): value for name, value in tensors.items() if name.startswith("io.")}
        names = {name.removeprefix("weights."): name for name in tensors if name.startswith("weights.")}
        self.weights = {own: tensors[name] for own, name in names.items() if not own.startswith(UNREAD)}

    def model(self, layers=operations) -> Transformer:
        model = Transformer(self.config, layers)
        model.load_state_dict(self.weights)
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def run(self, model: Transformer, evaluate=None):
        context, audio = model.embed_context(None, None), model.embed_audio(self.io["audio"])
        time, scene = model.embed_timestep(self.io["timestep"]), model.embed_scene(self.io["cond"][None])
        return (evaluate or model.evaluate)(self.io["latent"][None], time, scene, context, audio)[0]


@pytest.fixture(params=["head_pro", "head_lite"])
def head(request, golden) -> Head:
    return Head(golden / f"{request.param}.safetensors")


def test_all_blocks_share_one_graph_which_gives_the_golden_numbers(head):
    torch.compiler.reset()
    counter, model = CompileCounterWithBackend("aot_eager"), head.model()
    found = head.run(model, lambda *given: model.evaluate(*given, run_block=compiled_block(counter)))
    assert (found - head.io["out"]).abs().max() <= 1e-4
    assert counter.frame_count == 1


def test_fp8_comes_close(head):
    model = head.model(fp8.SimulatedOperations)
    for block in model.blocks:
        fp8.quantize(block)
    assert all(block.cross_attn.v.weight.dtype == fp8.FP8 for block in model.blocks)
    found, wanted = head.run(model), head.io["out"]
    assert 1e-4 < (found - wanted).norm() / wanted.norm() < 0.2  # 64 wide; the wider, the closer


def test_two_speakers_are_refused(head):
    with pytest.raises(InputError, match="this model hears one"):
        head.model().embed_scene(head.io["cond"][None], torch.ones(3, 8, 6))


def test_a_model_that_reads_prompts_needs_them():
    config = TransformerConfig(dim=24, ffn_dim=24, num_heads=2, num_layers=1, audio_blocks=1, audio_channels=4)
    with pytest.raises(InputError, match="without prompt and image tokens"):
        Transformer(config).embed_context(None, None)


def test_without_prompts_sound_tokens_are_as_wide_as_the_model():
    with pytest.raises(InputError, match="output_dim 768, dim 5120"):
        TransformerConfig(prompted=False)
