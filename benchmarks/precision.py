"""What bfloat16 costs and saves on this device: the embedded model on one chunk, against float32.

    python -m benchmarks.precision [--device cpu]

The inputs are random (fixed seed), the weights the embedded model's. Speed is the processor time of the second run.
"""

import argparse
import time
from typing import NamedTuple

import torch
from torch import Tensor

from livetalk_core.bench import random_avatar
from livetalk_core.checkpoints import nano
from livetalk_core.config import PRESETS
from livetalk_core.machine import choose_device
from livetalk_core.models.vae import LATENT_CHANNELS
from livetalk_core.shapes import VideoShape
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ignore_step

PRESET = PRESETS["nano"]
PEAK_TO_PEAK = 2.0


class Chunk(NamedTuple):
    """One chunk's results, and the processor seconds that they took."""

    latent: Tensor
    frames: Tensor
    denoise_seconds: float
    decode_seconds: float


def compute(device: torch.device, dtype: torch.dtype) -> Chunk:
    """The same chunk for every dtype."""
    torch.manual_seed(0)
    config, stream = PRESET.transformer, PRESET.stream
    shape = VideoShape(stream.frame_num, stream.height, stream.width)
    avatar, noise = random_avatar(PRESET, shape), torch.randn(stream.steps, LATENT_CHANNELS, *shape.latent)
    windows = torch.randn(1, stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
    engine = LocalEngine(nano.transformer(device, dtype), nano.vae(device, dtype), device)
    for _ in range(2):
        start = time.process_time()
        latent = engine.denoise(avatar, windows, avatar.first_motion, noise, ignore_step)
        middle = time.process_time()
        frames = torch.cat(list(engine.decode(latent)), dim=1)
        end = time.process_time()
    return Chunk(latent, frames, middle - start, end - middle)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    device = choose_device(options.parse_args().device)
    exact, rounded = (compute(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    error = (rounded.latent - exact.latent).norm() / exact.latent.norm()
    noise = (rounded.frames - exact.frames).square().mean()
    print(f"latent error {error:.2%}, frames {10 * torch.log10(PEAK_TO_PEAK**2 / noise):.1f} dB PSNR")
    print(f"denoise {exact.denoise_seconds:.3f} s in float32, {rounded.denoise_seconds:.3f} s in bfloat16")
    print(f"decode  {exact.decode_seconds:.3f} s in float32, {rounded.decode_seconds:.3f} s in bfloat16")


if __name__ == "__main__":
    main()
