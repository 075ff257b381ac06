"""What training takes of each GPU, counted on networks without numbers."""

from dataclasses import replace

import pytest

from benchmarks.training_memory import STAGES, Stage, denoiser, frozen, kept_by, lora_memory, memory_of, share_of
from livetalk_core.presets import PRESETS

NANO = PRESETS["nano"].transformer
LATENT = (3, 8, 8)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_weight_is_shared_out(ranks):
    whole = 4 * sum(weight.numel() for weight in denoiser(NANO).parameters())
    assert whole / ranks <= share_of(denoiser(NANO), ranks) < 1.05 * whole / ranks


def test_checkpointed_blocks_keep_what_comes_in_alone():
    one, two = (kept_by(denoiser(replace(NANO, num_layers=layers)), LATENT) for layers in (1, 2))
    memory, tokens = memory_of(Stage("small", 2, 1, 0, 0), NANO, LATENT), 3 * 4 * 4
    assert memory.activations == one + NANO.num_layers * tokens * NANO.dim * 2
    assert two - one > 10 * tokens * NANO.dim * 2, "a block keeps much more where it is not computed again"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_14b_fits_into_80_gb(stage):
    assert 40e9 < memory_of(stage).total < 74e9


def test_a_lora_keeps_the_weights_in_fp8_and_five_of_each_factor():
    bare = sum(tensor.nbytes for tensor in (*frozen(NANO).parameters(), *frozen(NANO).buffers()))
    one, two = (lora_memory(rank, NANO, LATENT).networks for rank in (1, 2))
    assert two - one == one - bare > 0
    assert bare < 0.65 * 2 * sum(weight.numel() for weight in denoiser(NANO).parameters())


def test_a_14b_lora_fits_into_48_gb():
    assert 18.9e9 < lora_memory().total < 44e9
