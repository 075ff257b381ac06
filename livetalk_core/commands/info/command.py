"""The command `info`."""

import argparse

from ..options import device_and_dtype, machine_options, placement_of, placement_options, size, stoppable
from ..progress import show_stage


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("model", nargs="?", default="nano", help="'nano', '14b', or a file or folder of weights")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the model's)")
    machine_options(command)
    placement_options(command)


def run(options: argparse.Namespace) -> int:
    """Say what a checkpoint holds, what this machine can run, and the memory that it needs."""
    with show_stage("starting"):
        from .report import inspect

    with stoppable():
        with show_stage("counting"):
            device, dtype = device_and_dtype(options)
            lines = inspect(options.model, device, dtype, options.size, placement_of(options))
        print("\n".join(lines))
    return 0
