"""The command `convert`."""

import argparse
from pathlib import Path

from .options import stoppable
from .progress import show_stage


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("source", type=Path, help="a .pth file, a sharded or single safetensors file, or a folder")
    command.add_argument("output", type=Path, help="the safetensors file to write")
    command.add_argument("--fp8", action="store_true", help="scale the blocks' large weights to FP8 (e4m3)")


def run(options: argparse.Namespace) -> int:
    """Convert weights: .pth to safetensors, shards to one file, bfloat16 to scaled FP8."""
    with show_stage("starting"):
        from ..checkpoints.convert import convert

    with stoppable():
        with show_stage("converting") as share:
            written = convert(options.source, options.output, fp8=options.fp8, progress=share)
        print(written)
    return 0
