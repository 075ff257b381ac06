"""The command `bench`."""

import argparse
import json
from pathlib import Path

from ...config import PRESETS
from ...errors import InputError
from ...files import check_place, write_durably
from ..options import (
    device_and_dtype,
    machine_options,
    placement_of,
    placement_options,
    positive,
    size,
    speed_options,
)
from . import race
from .parts import bench
from .report import report, table, update_document


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--preset", choices=PRESETS, default="nano", help="shape of the model (default: nano)")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the preset's)")
    command.add_argument("--repeats", type=positive, default=5, help="timed runs of each part (default: 5)")
    command.add_argument(
        "--against", type=Path, metavar="PATH",
        help="run whole chunks in turn with the reference implementation, of which PATH is a checkout",
    )  # fmt: skip
    command.add_argument("--json", type=Path, help="also keep the record in this file")
    command.add_argument("--document", type=Path, help="also put the table into this Markdown file")
    machine_options(command)
    speed_options(command)
    placement_options(command)


def run(options: argparse.Namespace) -> int:
    """Time each part of the model on this machine."""
    for path in filter(None, (options.json, options.document)):
        check_place(path)
    device, dtype = device_and_dtype(options)
    preset, speed = PRESETS[options.preset].sized(options.size), (options.attention, options.compile)
    if options.against and placement_of(options):
        raise InputError("--against compares with the same weights on one device; leave out --fp8 and --memory")
    if options.against:
        record = race.race(options.against, preset, device, dtype, options.repeats, *speed)
        lines, section = race.report(record), race.table(record)
    else:
        record = bench(preset, device, dtype, options.repeats, *speed, placement_of(options))
        lines, section = report(record), table(record)
    print(lines)
    if options.json:
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())
    if options.document:
        update_document(options.document, section)
    return 0
