"""Where a transformer's weights are: the same numbers wherever, within the bytes that were allowed."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints import nano
from livetalk_core.checkpoints.convert import convert
from livetalk_core.checkpoints.load import load_transformer
from livetalk_core.commands.bench.parts import random_avatar, randomize
from livetalk_core.errors import InputError
from livetalk_core.hardware.memory import meta_models, peak_bytes, readable, weight_bytes
from livetalk_core.hardware.placement import Placement, Residence, open_placed, place, residence
from livetalk_core.models import fp8
from livetalk_core.models.transformer import Transformer
from livetalk_core.parallel import offload
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import WAN, VideoShape
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step

CPU = torch.device("cpu")
F32 = torch.float32
NANO = PRESETS["nano"].sized((64, 64))
LARGE = PRESETS["14b"]
SHAPE = VideoShape(33, 64, 64)


def latents(transformer, count=2):
    """Chunks of two steps, each with another avatar."""
    engine = LocalEngine(transformer, nano.vae(CPU, F32))
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        avatar, noise = random_avatar(NANO, SHAPE), torch.randn(2, 16, *SHAPE.latent(WAN))
        windows = torch.randn(1, 33, 5, NANO.transformer.audio_blocks, NANO.transformer.audio_channels)
        found.append(engine.denoise(avatar, windows, avatar.first_motion(WAN), noise, ignore_step))
    return torch.stack(found)


def built(layers=fp8.SimulatedOperations, dtype=F32):
    return nano.transformer(CPU, dtype, layers)


@pytest.mark.parametrize("streamed", [[0], [1, 3, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("quantized", [False, True])
def test_streamed_blocks_compute_the_same_bits(streamed, quantized):
    wanted = latents(place(built(), CPU, quantized, []))
    assert torch.equal(latents(place(built(), CPU, quantized, streamed)), wanted)


def test_bfloat16_blocks_stream_too():
    wanted = latents(built(dtype=torch.bfloat16))
    assert torch.equal(latents(place(built(dtype=torch.bfloat16), CPU, False, [1, 2])), wanted)


def test_a_wrong_byte_is_noticed():
    model = built()
    wanted = latents(model)
    model.blocks[3].ffn[0].weight.data[0, 0] += 1
    assert not torch.equal(latents(place(model, CPU, False, [3])), wanted)


def test_a_failed_layer_gives_its_weight_back():
    """What is left by an error, such as a cancel, does not spoil the next chunk."""
    model = place(built(), CPU, False, list(range(6)))
    wanted = latents(model)

    def stop(*_):
        raise KeyboardInterrupt

    hook = model.blocks[2].ffn[0].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        latents(model)
    hook.remove()
    assert torch.equal(latents(model), wanted)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_budget_is_kept(quantized, share):
    """Counted, as on a GPU: what stays there, the slots, and all that a step makes."""
    whole, least = residence(NANO, F32, Placement(quantized)).total, least_of(NANO, quantized)
    budget = int(least + share * (whole - least))
    found = residence(NANO, F32, Placement(quantized, budget))
    assert found.total <= budget and 0 <= found.blocks < found.of
    assert (found.blocks == 0) == (share == 0)
    model = place(built(), CPU, quantized, found.streamed)
    staged = offload.staging_bytes(layers_of(NANO, quantized))
    others = ("VAE weights", "audio encoder weights", "context", "margin")
    kept = weight_bytes(model) + sum(found.needed[part] for part in others)
    step = peak_bytes(lambda: latents(model, 1))
    works = max(found.needed[part] for part in ("transformer step", "VAE decode", "VAE encode"))
    assert kept + staged + works == found.total
    plain = peak_bytes(lambda: latents(place(built(), CPU, quantized, []), 1))
    assert step <= plain, "a pass makes no copies of weights but in the slots"


def least_of(preset, quantized):
    """With all blocks streamed; a byte less is refused."""
    whole, layers = residence(preset, F32, Placement(quantized)), layers_of(preset, quantized)
    least = whole.total - sum(layer.weight.nbytes for layer in layers) + offload.staging_bytes(layers)
    with pytest.raises(InputError, match=f"needs at least {re.escape(readable(least))}"):
        residence(preset, F32, Placement(quantized, least - 1))
    return least


def layers_of(preset, quantized):
    return offload.streamed_layers(meta_models(preset, F32, quantized)[0].blocks)


def test_the_14b_model_on_small_cards():
    """By hand: a block's linear layers are 0.85 GiB in bfloat16 (440 M weights), half of it in FP8."""
    for budget in (22 * 2**30, 14 * 2**30):
        plain, quantized = (residence(LARGE, torch.bfloat16, Placement(flag, budget)) for flag in (False, True))
        assert plain.total <= budget and quantized.total <= budget
        assert budget - plain.total < 0.9 * 2**30 and budget - quantized.total < 0.45 * 2**30
        assert quantized.blocks >= 2 * plain.blocks
    assert residence(LARGE, torch.bfloat16, Placement(True, 80 * 2**30)).blocks == 40


@pytest.mark.parametrize("blocks", [0, 1, 13, 39, 40])
def test_streamed_blocks_are_spread_evenly(blocks):
    streamed = Residence(blocks, 40, {}, 0).streamed
    assert len(streamed) == 40 - blocks and len(set(streamed)) == len(streamed)
    gaps = [b - a for a, b in pairwise(streamed)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_embedded_model_opens_in_every_placement():
    wanted = latents(open_placed("nano", CPU, F32, Placement()).transformer)
    streamed = open_placed("nano", CPU, F32, Placement(memory=least_of(PRESETS["nano"], False)))
    assert torch.equal(latents(streamed.transformer), wanted)
    quantized = latents(open_placed("nano", CPU, F32, Placement(fp8=True)).transformer)
    assert 0.001 < ((quantized - wanted).norm() / wanted.norm()).item() < 0.1


def test_a_scaled_fp8_file_is_used_as_it_is(tmp_path):
    """Its weights and scales are those of the file, and never anything wider."""
    source, output = tmp_path / "m.safetensors", tmp_path / "fp8.safetensors"
    config = {"config": json.dumps(vars(PRESETS["nano"].transformer))}
    save_file(nano.transformer(CPU, F32).state_dict(), source, config)
    stored = load_file(convert(source, output, fp8=True))
    model = place(load_transformer(output, CPU, F32, fp8.SimulatedOperations), CPU, True, [0, 2])
    for name, layer in model.blocks[1].named_modules():
        if f"blocks.1.{name}.scale_weight" in stored:
            assert torch.equal(layer.weight.view(torch.uint8), stored[f"blocks.1.{name}.weight"].view(torch.uint8))
            assert torch.equal(layer.scale_weight, stored[f"blocks.1.{name}.scale_weight"])
    wanted = latents(nano.transformer(CPU, F32))
    assert 0.001 < ((latents(model) - wanted).norm() / wanted.norm()).item() < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("quantized", [False, True])
def test_a_gpu_streams_the_same_bits_within_its_budget(quantized):
    device, preset = torch.device("cuda"), replace(NANO, transformer=replace(NANO.transformer, dim=768, ffn_dim=2048))
    layers = fp8.SimulatedOperations

    def run(streamed):
        model = place(randomize(Transformer(preset.transformer, layers, "cpu", F32)), device, quantized, streamed)
        engine = LocalEngine(model, nano.vae(device, F32), device)
        torch.manual_seed(0)
        avatar, noise = random_avatar(preset, SHAPE), torch.randn(4, 16, *SHAPE.latent(WAN))
        windows = torch.randn(1, 33, 5, preset.transformer.audio_blocks, preset.transformer.audio_channels)
        torch.cuda.reset_peak_memory_stats()
        found = [engine.denoise(avatar, windows, avatar.first_motion(WAN), noise, ignore_step) for _ in range(3)]
        return torch.stack(found).cpu(), torch.cuda.max_memory_allocated()

    (wanted, whole), (found, less) = run([]), run(list(range(6)))
    assert torch.equal(found, wanted)
    assert less < whole
