"""GPU memory that the 14B model needs in ComfyUI, counted on the meta device: `python -m benchmarks.comfy_vram`.

ComfyUI moves models out of each other's way, so the peak is the larger of two stages: the transformer with its kept
context and a step's working memory, or the VAE with its own. Kernels' workspaces and the CUDA context are not counted.
"""

import argparse

import torch

from livetalk_core.hardware.memory import memory_of
from livetalk_core.models.fp8 import is_quantized
from livetalk_core.models.transformer import Transformer
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import VideoShape

GIB = 2**30
UNIT_WIDTH, MIB_PER_VALUE = 2222, 0.01
"""ComfyUI's estimate for a Wan model: MiB per latent value and byte, for a width of 2222 channels."""


def weights(stored: int) -> int:
    """Bytes of the transformer with `stored` bytes for each value of the layers that quantisation touches."""
    with torch.device("meta"):
        parameters = Transformer(PRESETS["14b"].transformer).named_parameters()
    return sum(tensor.numel() * (stored if is_quantized(name) else 2) for name, tensor in parameters)


def estimate(height: int, width: int) -> float:
    """What ComfyUI sets aside for a step in bfloat16, in bytes."""
    shape = VideoShape(PRESETS["14b"].stream.frame_num, height, width).latent(PRESETS["14b"].geometry)
    values = shape.frames * shape.height * shape.width
    return values * 2 * MIB_PER_VALUE * PRESETS["14b"].transformer.dim / UNIT_WIDTH * 2**20


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(448, 768), metavar=("WIDTH", "HEIGHT"))
    width, height = parser.parse_args().size
    needed = memory_of(PRESETS["14b"], height, width, torch.bfloat16)
    step = needed["context"] + needed["transformer step"]
    vae = needed["VAE weights"] + max(needed["VAE decode"], needed["VAE encode"])
    print("| weights | transformer | context and step | VAE's stage | peak |\n|---|---|---|---|---|")
    for name, stored in (("bfloat16", 2), ("FP8-scaled", 1), ("INT8", 1)):
        size = weights(stored)
        row = (size, step, vae, max(size + step, vae))
        print(f"| {name} | " + " | ".join(f"{value / GIB:.1f} GiB" for value in row) + " |")
    print(
        f"\nComfyUI sets aside {estimate(height, width) / GIB:.2f} GiB for context and step ({step / GIB:.2f} counted)."
    )


if __name__ == "__main__":
    main()
