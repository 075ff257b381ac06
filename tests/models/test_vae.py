"""The VAE: streamed equals whole, causal, and at any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from livetalk_core.config import VAEConfig
from livetalk_core.errors import InputError
from livetalk_core.models.vae import VAE, Norm


def random_vae(seed: int = 0) -> VAE:
    generator = torch.Generator().manual_seed(seed)
    vae = VAE(VAEConfig(dim=4)).eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return vae


VAE_4 = random_vae()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 1e-6])
def test_a_norm_of_next_to_nothing_is_finite(dtype, value):
    """float16 rounds 1e-12 to zero, and has no number for what the smallest lengths are multiplied by."""
    norm = Norm(384, 3)
    norm.gamma = torch.nn.Parameter(torch.ones(384, 1, 1, 1))
    normed = norm(torch.full((1, 1, 2, 2, 384), value, dtype=dtype))
    assert normed.isfinite().all() and normed.abs().max() <= 1.01


@settings(max_examples=8, deadline=None)
@given(frames=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 4))
def test_shapes(frames: int, height: int, width: int) -> None:
    latent = torch.zeros(1, 16, frames, height, width)
    groups = list(VAE_4.decode_groups(latent))
    assert [group.shape[2] for group in groups] == [1] + [4] * (frames - 1)
    video = torch.cat(groups, dim=2)
    assert video.shape == (1, 3, 4 * frames - 3, 8 * height, 8 * width)
    assert VAE_4.encode(video).shape == latent.shape


def test_decoding_is_causal() -> None:
    """A change in the third latent frame leaves all frames before it as they were, bit for bit."""
    latent = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    changed = latent.clone()
    changed[:, :, 2] += 1
    a, b = VAE_4.decode(latent), VAE_4.decode(changed)
    assert torch.equal(a[:, :, :5], b[:, :, :5])
    assert not torch.equal(a[:, :, 5:], b[:, :, 5:])


def test_one_group_of_many_equals_group_by_group() -> None:
    """The history carries all that matters: later frames may come in any grouping."""
    latent = torch.randn(1, 16, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    z = VAE_4.conv2(latent)

    def decode(begun: list[int], finished: list[int]) -> torch.Tensor:
        history: dict = {}
        features = torch.cat([VAE_4.decoder.begin(part, history) for part in z.split(begun, dim=2)], dim=1)
        return torch.cat([VAE_4.decoder.finish(part, history) for part in features.split(finished, dim=1)], dim=2)

    single = decode([1, 1, 1, 1], [1, 2, 2, 2])
    for begun, finished in (([1, 3], [1, 6]), ([1, 2, 1], [1, 1, 4, 1])):
        torch.testing.assert_close(decode(begun, finished), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_history_keeps_its_own_frames_alone(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered between two groups holds the bytes of these frames, and no buffer that they were cut from."""
    histories: list[dict] = []
    half = VAE_4.decoder if way == "decode" else VAE_4.encoder
    method = "finish" if way == "decode" else "forward"
    compute = getattr(half, method)

    def watched(x: torch.Tensor, history: dict) -> torch.Tensor:
        histories.append(history)
        return compute(x, history)

    monkeypatch.setattr(half, method, watched)
    with torch.inference_mode():
        if way == "decode":
            list(VAE_4.decode_groups(torch.zeros(1, 16, 4, 2, 2)))
        else:
            VAE_4.encode(torch.zeros(1, 3, 13, 16, 16))
    kept = histories[-1].values()
    assert len(kept) > 20
    assert [frames.untyped_storage().nbytes() for frames in kept] == [frames.nbytes for frames in kept]


def test_every_convolution_finds_channels_last() -> None:
    """No layer on the way gives up the layout: each would cost a copy, and the next one its speed."""
    vae, strides = random_vae(), []
    for module in (*vae.encoder.modules(), *vae.decoder.modules()):
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(lambda _, arguments: strides.append(arguments[0].stride(1)))
    with torch.inference_mode():
        vae.encode(vae.decode(torch.randn(1, 16, 3, 2, 2)))
    assert len(strides) > 100 and set(strides) == {1}


def test_gradients_reach_the_latent_and_every_weight() -> None:
    """With gradients the layers take other paths; the result is the same."""
    vae, latent = random_vae().requires_grad_(True), torch.randn(1, 16, 2, 2, 2, requires_grad=True)
    decoded = vae.decode(latent)
    decoded.square().mean().backward()
    assert latent.grad is not None and latent.grad.abs().max() > 0
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in vae.decoder.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(vae.decode(latent), decoded, rtol=1e-4, atol=1e-4)


def test_first_latent_of_a_clip_is_the_portrait_alone() -> None:
    """What the first chunk starts from need not be encoded a second time."""
    video = torch.randn(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    assert torch.equal(VAE_4.encode(video)[:, :, :1], VAE_4.encode(video[:, :, :1]))


def test_frames_that_no_latent_covers_are_refused() -> None:
    with pytest.raises(InputError, match="6 frames; the VAE needs 4n"):
        VAE_4.encode(torch.zeros(1, 3, 6, 16, 16))
