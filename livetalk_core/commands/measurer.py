"""The command `measurer`."""

import argparse
from pathlib import Path

from .options import positive, stoppable
from .progress import show_stage


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--train", type=Path, metavar="FOLDER", help="train a new one in this folder, or go on there")
    command.add_argument("--steps", type=positive, default=1000, help="of training (default: 1000)")
    command.add_argument("--faces", type=positive, default=16, help="held-out people to measure (default: 16)")
    command.add_argument("--speech", type=Path, help="a recording, or a folder of them (default: made by espeak-ng)")


def run(options: argparse.Namespace) -> int:
    """Say how well the measurer of `evaluate` measures; with --train, make a new one first."""
    with show_stage("starting"):
        from ..training.evaluation import command

    with stoppable():
        speech = command.held_out_speech(options.speech)  # what it lacks is named before the training
        if options.train:
            print(command.fit_measurer(options.train, options.steps))
        print(command.measure_the_measurer(speech, options.faces, (128, 128)))
    return 0
