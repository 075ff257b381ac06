"""What the checks share: small models, one chunk, and how far apart two results are."""

import comfy.model_management
import comfy.model_patcher
import torch
from livetalk_in_comfyui.livetalk_core.models.transformer import Transformer
from livetalk_in_comfyui.livetalk_core.models.vae import VAE
from livetalk_in_comfyui.livetalk_core.presets import PRESETS
from livetalk_in_comfyui.livetalk_core.streaming.avatar import Avatar
from livetalk_in_comfyui.nodes import host

NANO = PRESETS["nano"]
F, H, W = 3, 8, 8
FIGURES = {}
"""What was measured along the way."""


def weights_of(model, seed):
    """Random weights of a model's shapes, such that no path is zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor):
        noise = torch.randn(tensor.shape, generator=generator)
        return noise * 0.05 if tensor.ndim > 1 and tensor.shape[-1] > 1 else 1 + noise * 0.05

    return {key: draw(tensor) for key, tensor in model.state_dict().items()}


def transformer():
    """The core's transformer on the default layers, and its weights."""
    model = Transformer(NANO.transformer)
    weights = weights_of(model, 1)
    model.load_state_dict(weights)
    return model, weights


def build(weights):
    """A MODEL of nano's widths."""
    return host.build_model("test", NANO.transformer, dict(weights), (build, (weights,)), False)


def stock_vae():
    """The core's VAE on the default layers, and the stock VAE of the same weights."""
    model = VAE(NANO.vae)
    weights = weights_of(model, 2)
    model.load_state_dict(weights)
    return model, host.stock_vae(weights, NANO.vae)


def chunk():
    """An avatar, audio windows, motion latents and noise."""
    generator = torch.Generator().manual_seed(3)
    config = NANO.transformer

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    avatar = Avatar(
        draw(1, 3, 1, 8 * H, 8 * W), draw(20, F, H, W), draw(1, 65, config.clip_dim), draw(9, config.text_dim)
    )
    audio = draw(1, 1 + 4 * (F - 1), 5, config.audio_blocks, config.audio_channels)
    return avatar, audio, draw(16, 2, H, W), draw(4, 16, F, H, W)


def denoise(engine):
    """One chunk."""
    steps = []
    latent = engine.denoise(*chunk(), steps.append)
    assert steps == [1, 2, 3, 4]
    return latent


def close(a, b, tolerance):
    """Assert that two tensors agree within `tolerance` (max abs)."""
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    error = (a.float() - b.float()).abs().max().item()
    assert error <= tolerance, f"differ by {error:.3g}, at most {tolerance} is allowed"


def close_in_mean(a, b, tolerance):
    """Assert that |a - b| is at most `tolerance` of |b|, by root mean square; gives what it is."""
    error = ((a - b).square().mean() / b.square().mean()).sqrt().item()
    assert error <= tolerance, f"differ by {error:.1%}, at most {tolerance:.0%} is allowed"
    return error


def interrupted(work):
    """Run `work` with the Cancel button pressed, and again without; it must stop, then run."""
    comfy.model_management.interrupt_current_processing()
    try:
        work()
    except comfy.model_management.InterruptProcessingException:
        work()
    else:
        raise AssertionError("not interrupted")


class Enlarger(torch.nn.Module):
    """Repeats pixels: across `x` times, down `y` times."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image.repeat_interleave(self.y, 2).repeat_interleave(self.x, 3) + self.bias


def upscale_model(x, y):
    """What Load Upscale Model gives, as far as upscaling reads it."""
    module = Enlarger(x, y)
    device = torch.device("cpu")

    class Descriptor:
        scale = y
        patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=device)

        def __call__(self, image):
            return module(image)

    return Descriptor()
