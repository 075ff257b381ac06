"""The embedded model: the same on every machine, alive in every path, bounded."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from livetalk_core.checkpoints import nano
from livetalk_core.checkpoints.load import open_model
from livetalk_core.errors import CheckpointError
from livetalk_core.models.audio_encoder import windows


def build(part):
    return getattr(nano, part)("cpu", torch.float32)


@pytest.mark.parametrize("part", nano.PARTS)
def test_parts_are_the_same_each_time_and_leave_the_global_generator_alone(part):
    state = torch.get_rng_state()
    first = build(part).state_dict()
    torch.manual_seed(5)
    second = build(part).state_dict()
    torch.set_rng_state(state)
    build(part)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("part", nano.PARTS)
def test_no_weight_is_dead(part):
    for name, tensor in build(part).state_dict().items():
        assert tensor.isfinite().all(), name
        assert tensor.ne(0).double().mean() > 0.999, name
        assert tensor.numel() == 1 or tensor.std() > 1e-3, name


@torch.inference_mode()
def test_the_whole_chain_stays_bounded_and_hears():
    model = open_model("nano", "cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(1, 3, 1, 64, 64, generator=generator) * 2 - 1
    [text] = model.encode_texts("a person talks")
    sound = model.audio_encoder.standardize(torch.randn(16_000, generator=generator))
    features = model.audio_encoder.embed(sound, 25)
    video = torch.zeros(1, 3, 9, 64, 64)
    video[:, :, :1] = reference
    cond = torch.cat([torch.ones(1, 4, 3, 8, 8), model.vae.encode(video)], dim=1)
    context = model.transformer.embed_context(text[None], model.encode_image(reference))
    latent = torch.randn(1, 16, 3, 8, 8, generator=generator)
    step = torch.tensor([1000.0])
    heard = model.transformer.embed_audio(windows(features, 0, 9)[None])
    later = model.transformer.embed_audio(windows(features, 9, 18)[None])
    out = model.transformer(latent, step, cond, context, heard)
    frames = model.vae.decode(latent - out)
    assert 0.1 < features.std() < 10
    assert 0.1 < out.std() < 10
    assert 0.05 < frames.std() < 1
    assert (out - model.transformer(latent, step, cond, context, later)).abs().mean() > 0.001
    [other] = model.encode_texts("somebody sings")
    prompted = model.transformer.embed_context(other[None], model.encode_image(reference))
    assert (out - model.transformer(latent, step, cond, prompted, heard)).abs().mean() > 0.001


def test_weights_in_the_pack_replace_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(nano, "ASSETS", tmp_path)
    own = {name: tensor * 2 for name, tensor in build("transformer").state_dict().items()}
    save_file(own, nano.asset("transformer"))
    model = open_model("nano", "cpu", torch.float32)
    assert str(model) == "nano"
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.transformer.state_dict().items())
    del own["patch_embedding.bias"]
    save_file(own, nano.asset("transformer"))
    with pytest.raises(CheckpointError, match=r"missing: patch_embedding\.bias"):
        nano.transformer("cpu", torch.float32)


def test_the_fingerprint_is_of_the_parts_in_use_alone(tmp_path, monkeypatch):
    whole = nano.assets_fingerprint(*nano.PARTS)
    for part in nano.PARTS:
        if nano.asset(part).is_file():
            shutil.copy(nano.asset(part), tmp_path)
    monkeypatch.setattr(nano, "ASSETS", tmp_path)
    assert nano.assets_fingerprint(*nano.PARTS) == whole
    assert nano.assets_fingerprint("vae") not in (whole, nano.assets_fingerprint("transformer"))
