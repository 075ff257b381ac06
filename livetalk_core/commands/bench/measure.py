"""Which measurement the options of `bench` ask for, and where its record goes."""

import argparse
import json

from ...errors import InputError
from ...files import check_place, write_durably
from ...presets import PRESETS
from ..options import device_and_dtype, placement_of
from . import fleet, race
from .parts import bench
from .report import report, table, update_document


def measure(options: argparse.Namespace) -> int:
    """Measure, print the report and write the files that were asked for; the exit code."""
    for path in filter(None, (options.json, options.document)):
        check_place(path)
    device, dtype = device_and_dtype(options)
    preset, speed = PRESETS[options.preset].sized(options.size), (options.attention, options.compile)
    workers = fleet.fleet_of(options, preset, dtype)
    if options.against and (workers or placement_of(options)):
        raise InputError(
            "--against compares with the same weights on one device; leave out --devices, --fp8 and --memory"
        )
    if workers is not None and options.memory is not None:
        raise InputError("--memory is for one device; leave it out, or --devices: --shard-weights needs less on each")
    if workers is not None:
        record = fleet.bench_fleet(preset, workers, options, dtype)
        lines, section = fleet.report(record), fleet.table(record)
    elif options.against:
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
