"""The command `train`."""

import argparse
from pathlib import Path

from ..errors import InputError
from .options import stoppable
from .progress import show_stage


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument(
        "stage", choices=("speech", "pictures", "vae", "audio", "image", "prepare", "adapt", "distill", "lora")
    )
    command.add_argument("--config", type=Path, required=True, help="a TOML file; ours are in training/configs")
    command.add_argument("--device", default="cpu", help="where takes are prepared (default: cpu)")
    command.add_argument("--output", type=Path, help="folder of the run; an unfinished run there goes on")
    command.add_argument("--export", type=Path, metavar="FILE", help="write the trained weights here at the end")


def run(options: argparse.Namespace) -> int:
    """Train a model: its speech data, its parts, stage 1 (adapt), stage 2 (distill), or one person's LoRA."""
    with show_stage("starting"):
        from ..files import check_place, make_folder
        from ..hardware.machine import choose_device
        from ..training import commands
        from ..training.settings import read_settings

    if options.export:
        check_place(options.export)
    settings = read_settings(options.config)
    with stoppable():
        if options.stage in commands.PREPARATIONS:
            for made in commands.PREPARATIONS[options.stage](settings, choose_device(options.device)):
                print(made)
            return 0
        if options.output is None:
            raise InputError(f"train {options.stage} has no --output; a folder for its checkpoints is needed")
        make_folder(options.output)
        print(commands.train(options.stage, settings, options.output))
        if options.export:
            print(commands.export(options.stage, settings, options.output, options.export))
    return 0
