"""The audio encoder: the reference's numbers, where a window samples, and the windows around frames."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from livetalk_core.checkpoints import keys, nano
from livetalk_core.config import AudioEncoderConfig
from livetalk_core.models.audio_encoder import AudioEncoder, windows


def read(path):
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    return metadata, tensors, weights


@pytest.fixture(scope="module")
def example(golden):
    return read(golden / "audio.safetensors")


def loaded(metadata, weights):
    encoder = AudioEncoder(AudioEncoderConfig(**metadata["config"])).eval()
    encoder.load_state_dict(keys.audio_encoder(weights))
    return encoder


@torch.inference_mode()
def test_embedding_and_windows_are_the_references(example):
    metadata, tensors, weights = example
    encoder = loaded(metadata, weights)
    frames = metadata["frames"]
    embedding = encoder.embed(encoder.standardize(tensors["io.normalized"]), frames)
    torch.testing.assert_close(embedding, tensors["io.embedding"], rtol=0, atol=1e-4)
    torch.testing.assert_close(windows(embedding, 0, 8), tensors["io.windows_first8"], rtol=0, atol=1e-4)
    torch.testing.assert_close(windows(embedding, frames - 8, frames), tensors["io.windows_last8"], rtol=0, atol=1e-4)


FELT = [
    "feature_extractor.conv_layers.3.conv.weight",
    "feature_projection.projection.weight",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.layers.1.attention.v_proj.weight",
    "encoder.layers.2.final_layer_norm.weight",
]


@pytest.mark.parametrize("name", FELT)
@torch.inference_mode()
def test_parity_notices_one_changed_weight(example, name):
    metadata, tensors, weights = example
    encoder = loaded(metadata, {**weights, name: weights[name] * 1.05})
    embedding = encoder.embed(encoder.standardize(tensors["io.normalized"]), metadata["frames"])
    assert (embedding - tensors["io.embedding"]).abs().max() > 1e-4


@torch.inference_mode()
def test_old_weight_norm_prefix_and_heads_load(example):
    metadata, tensors, weights = example
    stem = "encoder.pos_conv_embed.conv"
    renames = {
        f"{stem}.parametrizations.weight.original0": f"{stem}.weight_g",
        f"{stem}.parametrizations.weight.original1": f"{stem}.weight_v",
    }
    older = {f"wav2vec2.{renames.get(name, name)}": tensor for name, tensor in weights.items()}
    heads = dict.fromkeys(("quantizer.codevectors", "project_q.weight", "project_hid.bias", "lm_head.weight"), tensors)
    mapped = keys.audio_encoder({**older, **heads})
    assert mapped.keys() == loaded(metadata, weights).state_dict().keys()
    for name, tensor in keys.audio_encoder(weights).items():
        assert mapped[name] is tensor


@torch.inference_mode()
def test_a_window_samples_where_the_whole_does():
    """640 samples a frame: every second feature, in a window as in the whole (away from the norm over time)."""
    encoder = nano.audio_encoder("cpu")
    encoder.feature_extractor.conv_layers[0].layer_norm = torch.nn.Identity()
    sound = torch.randn(25 * 640, generator=torch.Generator().manual_seed(0))
    whole, part = encoder._features(sound), encoder._features(sound[5 * 640 :])
    torch.testing.assert_close(part, whole[10:], rtol=1e-4, atol=1e-5)
    assert len(whole) == 2 * 25 - 1


@given(data=st.data(), frames=st.integers(1, 30))
def test_windows_are_clamped_to_both_ends(data, frames):
    start = data.draw(st.integers(-3, frames))
    stop = data.draw(st.integers(start, frames + 3))
    found = windows(torch.arange(frames), start, stop)
    wanted = [[min(max(i + offset, 0), frames - 1) for offset in range(-2, 3)] for i in range(start, stop)]
    assert found.tolist() == wanted


@torch.inference_mode()
def test_one_sample_gives_one_frame():
    encoder = nano.audio_encoder("cpu")
    embedding = encoder.embed(encoder.standardize(torch.ones(1)), 1)
    assert embedding.shape == (1, encoder.blocks, encoder.channels)
    assert embedding.isfinite().all()
