"""The LTX VAE: sizes, what a frame depends on, draws, gradients, and the type that says how it decodes."""

import pytest
import torch
from torch import Tensor

from livetalk_core.config import LTXVAEConfig, VAEConfig
from livetalk_core.errors import InputError
from livetalk_core.models.codec import SampledCodec, StreamingCodec, decode_streamed
from livetalk_core.models.ltx_vae import LTXVAE
from livetalk_core.models.vae import VAE


def random_vae() -> LTXVAE:
    generator = torch.Generator().manual_seed(0)
    vae = LTXVAE(LTXVAEConfig((4, 4, 8, 8), (1, 1, 1, 1, 1))).eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    vae.latents_mean, vae.latents_std = torch.linspace(-1, 1, 128), torch.linspace(0.5, 2, 128)
    return vae


LTX = random_vae()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 1, 1), (2, 1, 2), (3, 2, 1)])
def test_shapes(frames: int, height: int, width: int) -> None:
    latent = draw(1, 128, frames, height, width)
    video = LTX.decode(latent)
    assert video.shape == (1, 3, 8 * frames - 7, 32 * height, 32 * width)
    assert LTX.encode(video).shape == latent.shape


def test_the_encoder_is_causal_and_the_decoder_is_not() -> None:
    video, latent = draw(1, 3, 17, 32, 32), draw(1, 128, 3, 1, 1)
    torch.testing.assert_close(LTX.encode(video)[:, :, :2], LTX.encode(video[:, :, :9]), rtol=1e-4, atol=1e-5)
    changed = latent.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(LTX.decode(latent)[:, :, :9], LTX.decode(changed)[:, :, :9])


def test_a_draw_is_the_mean_moved_by_the_deviation() -> None:
    video, noise = draw(1, 3, 9, 32, 32), draw(1, 128, 2, 1, 1)
    posterior = LTX.posterior(video)
    moved = LTX.encode_sample(video, noise) - LTX.encode(video)
    wanted = (posterior.log_variance / 2).exp() * noise / torch.linspace(0.5, 2, 128)[:, None, None, None]
    torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(LTX.encode_sample(video, torch.zeros_like(noise)), LTX.encode(video))
    assert posterior.log_variance.shape == (1, 1, 2, 1, 1)


def test_gradients_reach_the_latent_and_every_weight() -> None:
    """With gradients the layers take other paths; the result is the same."""
    vae, latent = random_vae().requires_grad_(True), draw(1, 128, 2, 1, 1).requires_grad_(True)
    decoded = vae.decode(latent)
    (decoded.square().mean() + vae.encode_sample(decoded, draw(1, 128, 2, 1, 1)).square().mean()).backward()
    assert latent.grad is not None and latent.grad.any()
    assert [name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    with torch.inference_mode():
        torch.testing.assert_close(LTX.decode(latent.detach()), decoded.detach(), rtol=1e-4, atol=1e-5)


def test_every_convolution_finds_channels_last() -> None:
    vae, strides = random_vae(), []
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(lambda _, arguments: strides.append(arguments[0].stride(1)))
    with torch.inference_mode():
        vae.encode(vae.decode(draw(1, 128, 2, 1, 1)))
    assert len(strides) > 30 and set(strides) == {1}


def test_the_type_says_how_frames_come() -> None:
    """Wan's VAE streams and takes the mean; LTX's gives a chunk whole and takes a draw."""
    wan = VAE(VAEConfig(dim=4)).requires_grad_(False)
    assert isinstance(wan, StreamingCodec) and not isinstance(wan, SampledCodec)
    assert isinstance(LTX, SampledCodec) and not isinstance(LTX, StreamingCodec)
    assert [frames.shape[2] for frames in decode_streamed(wan, draw(1, 16, 2, 1, 1))] == [1, 4]
    assert [frames.shape[2] for frames in decode_streamed(LTX, draw(1, 128, 2, 1, 1))] == [9]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 32, 32), "8 frames; the VAE needs 8n"),
        ((9, 48, 32), "size 32x48 px; both sides must be multiples of 32"),
        ((9, 32, 0), "size 0x32 px"),
    ],
)
def test_videos_that_no_latent_covers_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LTX.encode(torch.zeros(1, 3, *shape))


def test_widths_that_no_such_vae_has_are_refused() -> None:
    for widths, counts in (((4, 4, 4), (1, 1, 1, 1, 1)), ((4, 4, 4, 4), (1, 1, 1, 1)), ((4, 4, 4, 0), (1,) * 5)):
        with pytest.raises(InputError, match="needed are 4 widths and 5 counts"):
            LTXVAEConfig(widths, counts)
