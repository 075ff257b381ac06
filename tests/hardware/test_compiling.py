"""What is compiled: how many graphs there are, that none is made twice, and that the numbers stay."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from livetalk_core.config import TransformerConfig, VAEConfig
from livetalk_core.hardware import compiling
from livetalk_core.hardware.compiling import compile_vae, compiled_block
from livetalk_core.models import fp8, operations
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import WAN, VideoShape
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step

CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=5, freq_dim=32, text_len=8, text_dim=12, clip_dim=10,
    audio_blocks=2, audio_channels=6, intermediate_dim=16, output_dim=12, context_tokens=3,
)  # fmt: skip
STREAM = PRESETS["nano"].sized((64, 64)).stream


def randomized(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("in_fp8", [False, True])
def test_all_blocks_of_all_chunks_share_one_graph(in_fp8, speakers):
    model = randomized(Transformer(CONFIG, fp8.SimulatedOperations if in_fp8 else operations))
    for block in model.blocks if in_fp8 else ():
        fp8.quantize(block)
    engines = [LocalEngine(model, VAE(VAEConfig(dim=4)), compiled=way) for way in (False, True)]
    counter = CompileCounterWithBackend("aot_eager")
    vars(engines[1])["_evaluate"] = lambda *given: model.evaluate(*given, run_block=compiled_block(counter))
    size, reference = VideoShape(33, 64, 64).latent(WAN), torch.rand(1, 3, 1, 64, 64)
    masks = torch.eye(3).repeat_interleave(2, 1)[:, None].repeat(1, 8, 2)[..., :8] if speakers == 2 else None

    def encode(video):
        return torch.randn(16, (video.shape[1] + 3) // 4, 8, 8, generator=torch.Generator().manual_seed(1))

    for seed in range(2):
        torch.manual_seed(seed)
        text = torch.randn(3, 12)
        avatar = prepare_avatar(reference, torch.randn(1, 4, 10), text, encode, STREAM, masks)
        audio, noise = torch.randn(speakers, 33, 5, 2, 6), torch.randn(2, 16, *size)
        given = avatar, audio, avatar.first_motion(WAN), noise, ignore_step
        plain, compiled = (engine.denoise(*given) for engine in engines)
        assert (plain - compiled).abs().max() <= 1e-4 * plain.abs().max()
    assert counter.frame_count == 1


class Half(torch.nn.Module):
    """Of a VAE: anything that can be compiled."""

    def forward(self, x):
        return x + 1

    begin = finish = forward


def test_a_worker_that_stays_up_compiles_for_every_size_that_comes(monkeypatch):
    """More than the eight graphs that PyTorch makes of a function unasked."""
    monkeypatch.setattr(compiling, "run_block", lambda _, x: 2 * x)
    counter, vae = CompileCounterWithBackend("eager"), SimpleNamespace(encoder=Half(), decoder=Half())
    run = compiled_block(counter)
    compile_vae(vae, counter)
    for size in range(2, 14):
        assert run(None, torch.ones(size)).sum() == 2 * size
        assert vae.encoder(torch.ones(size)).sum() == vae.decoder.begin(torch.ones(size)).sum() == 2 * size
    assert counter.frame_count == 2 * 12, "the halves are one class here"


def test_how_long_compiling_took_is_said_once(caplog):
    model = randomized(Transformer(CONFIG))
    run = compiled_block("eager")
    with torch.inference_mode():
        latent = torch.randn(1, 16, 1, 4, 4)
        context = model.embed_context(torch.randn(1, 3, 12), torch.randn(1, 4, 10))
        audio = model.embed_audio(torch.randn(1, 1, 5, 2, 6))
        time, scene = model.embed_timestep(torch.tensor([500.0])), model.embed_scene(torch.randn(1, 20, 1, 4, 4))
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                model.evaluate(latent, time, scene, context, audio, run_block=run)
    assert [record.message.startswith("compiled a block in") for record in caplog.records] == [True]


@pytest.mark.slow
def test_the_vae_takes_nine_graphs_and_no_more():
    vae = randomized(VAE(VAEConfig(dim=4)))
    latent, video = torch.randn(1, 16, 5, 2, 2), torch.rand(1, 3, 9, 16, 16) * 2 - 1
    counter = CompileCounterWithBackend("eager")
    with torch.inference_mode():
        plain = vae.decode(latent), vae.encode(video)
        compile_vae(vae, counter)
        compile_vae(vae, counter)  # once more changes nothing
        for _ in range(2):
            for found, wanted in zip((vae.decode(latent), vae.encode(video)), plain, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 9
