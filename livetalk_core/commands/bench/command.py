"""The command `bench`."""

import argparse
from pathlib import Path

from ...presets import PRESETS
from ..fleet import fleet_options
from ..options import (
    machine_options,
    placement_options,
    positive,
    size,
    speed_options,
    stoppable,
)
from ..progress import show_stage


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--preset", choices=PRESETS, default="nano", help="shape of the model (default: nano)")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the preset's)")
    command.add_argument("--repeats", type=positive, help="timed runs of each part (default: 5)")
    command.add_argument(
        "--against", type=Path, metavar="PATH",
        help="run whole chunks in turn with the reference implementation, of which PATH is a checkout",
    )  # fmt: skip
    command.add_argument(
        "--counted", action="store_true",
        help="run nothing: operations and memory in bfloat16, and the least time on cards by their published rates "
        "(at 512x512 and 448x768, or --size)",
    )  # fmt: skip
    command.add_argument("--json", type=Path, help="also keep the record in this file")
    command.add_argument("--document", type=Path, help="also put the table into this Markdown file")
    machine_options(command)
    speed_options(command)
    placement_options(command)
    fleet_options(command)


def run(options: argparse.Namespace) -> int:
    """Time each part of the model on this machine."""
    with show_stage("starting"):
        from .measure import measure

    with stoppable():
        return measure(options)
