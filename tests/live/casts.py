"""Casts of live streams: an engine that takes the time it is told, or small random models."""

import time

import torch

from livetalk_core.config import StreamConfig, TransformerConfig, VAEConfig
from livetalk_core.live.performer import Cast
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.streaming.avatar import Avatar, prepare_avatar
from livetalk_core.streaming.engine import LocalEngine

SIDE = 32
STREAM = StreamConfig(height=SIDE, width=SIDE, color_correction=0)


class SilentEncoder:
    """Features of the right shape; the engine below does not look at them."""

    lufs = -23.0

    def embed(self, waveform, frames):
        return torch.zeros(frames, 2, 6)


class TimedEngine:
    """Takes `seconds` for a chunk of 33 frames, 40% of it for the steps; each frame is brighter than the one before."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.encoded, self.value = seconds, [], 0

    def denoise(self, avatar, audio, motion, noise, on_step):
        for step in range(len(noise)):
            time.sleep(0.1 * self.seconds * noise.shape[2] / 9)
            on_step(step + 1)
        return noise[0]

    def decode(self, latent):
        for group in range(latent.shape[1]):
            time.sleep(0.6 * self.seconds / 9)
            count = 4 if group else 1
            self.value += count
            steps = torch.arange(self.value - count, self.value) % 200 / 100 - 1
            yield steps[None, :, None, None].expand(3, count, SIDE, SIDE).clone()

    def encode(self, frames):
        self.encoded.append(frames)
        return torch.zeros(16, 1 + (frames.shape[1] - 1) // 4, SIDE // 8, SIDE // 8)


def timed_cast(seconds: float, **options) -> Cast:
    """A cast whose chunks of 1.12 s take `seconds`."""
    avatar = Avatar(torch.zeros(1, 3, 1, SIDE, SIDE), torch.zeros(20, 9, 4, 4), torch.zeros(1, 4, 10),
                    torch.zeros(3, 12))  # fmt: skip
    return Cast(TimedEngine(seconds), avatar, SilentEncoder(), STREAM, **options)


CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=1, freq_dim=32, text_len=8, text_dim=12, clip_dim=10,
    audio_blocks=2, audio_channels=6, intermediate_dim=16, output_dim=12, context_tokens=3,
)  # fmt: skip
VAE_CONFIG = VAEConfig(dim=4)


def randomized(module, seed):
    """The module with random weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval().requires_grad_(False)


def small_cast() -> Cast:
    """A cast of small random models that computes for real."""
    engine = LocalEngine(randomized(Transformer(CONFIG), 1), randomized(VAE(VAE_CONFIG), 2))
    stream = StreamConfig(height=SIDE, width=SIDE, frame_num=9, motion_frames=5, steps=2)
    reference = torch.rand(1, 3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    avatar = prepare_avatar(reference, torch.ones(1, 4, 10), torch.ones(3, 12), engine.encode, stream)
    return Cast(engine, avatar, SilentEncoder(), stream, seed=5)
