"""Which measurement the options of `bench` ask for, and where its record goes."""

import argparse
import json
from typing import Any

from ...errors import InputError
from ...files import check_place, write_durably
from ...presets import PRESETS
from ..options import device_and_dtype, placement_of
from ..progress import show_stage
from . import counted, fleet, race, race_report
from .parts import bench
from .report import read_document, report, table, update_document

RUN_ALONE = (
    "against", "device", "dtype", "attention", "compile", "fp8", "memory", "devices", "listen", "ranks", "secret_file",
    "shard_weights", "mesh", "send_fp8", "overlap", "repeats",
)  # fmt: skip
"""Options that say how a measurement runs."""
UNASKED = (None, False, "auto")
"""Their values where nobody asked."""
REPEATS = 5


def measure(options: argparse.Namespace) -> int:
    """Measure, print the report and write the files that were asked for; the exit code."""
    _check_places(options)
    with show_stage("measuring"):
        lines, section, record = _counted(options) if options.counted else _measured(options)
    print(lines)
    if options.json:
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())
    if options.document:
        update_document(options.document, section)
    return 0


def _check_places(options: argparse.Namespace) -> None:
    for path in filter(None, (options.json, options.document)):
        check_place(path)
    if options.document:
        read_document(options.document)
    if options.json and options.document and options.json.absolute() == options.document.absolute():
        raise InputError(f"--json and --document are both {options.json}; two files are needed: name another one")


def _counted(options: argparse.Namespace) -> tuple[str, str, dict[str, Any]]:
    """What is counted as lines, as a section, and as a record."""
    if unread := [f"--{name.replace('_', '-')}" for name in RUN_ALONE if getattr(options, name) not in UNASKED]:
        raise InputError(f"--counted counts in bfloat16 and in FP8, and runs nothing; leave out {' and '.join(unread)}")
    preset = PRESETS[options.preset].sized(options.size)
    record = counted.counted(preset, sized=options.size is not None)
    return counted.report(record), counted.table(record), record


def _measured(options: argparse.Namespace) -> tuple[str, str, dict[str, Any]]:
    """What is measured as lines, as a section, and as a record."""
    options.repeats = options.repeats or REPEATS
    device, dtype = device_and_dtype(options)
    preset, speed = PRESETS[options.preset].sized(options.size), (options.attention, options.compile)
    workers = fleet.fleet_of(options, preset, dtype)
    if options.against and (workers or placement_of(options)):
        raise InputError(
            "--against compares with the same weights on one device; leave out --devices, --fp8 and --memory"
        )
    if workers is not None:
        record = fleet.bench_fleet(preset, workers, options, dtype)
        return fleet.report(record), fleet.table(record), record
    if options.against:
        record = race.race(options.against, preset, device, dtype, options.repeats, *speed)
        return race_report.report(record), race_report.table(record), record
    record = bench(preset, device, dtype, options.repeats, *speed, placement_of(options))
    return report(record), table(record), record
