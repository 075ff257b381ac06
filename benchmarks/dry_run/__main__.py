"""The 14B model at its full shape on a GPU that is not there: `python -m benchmarks.dry_run [--json FILE] [CASE ...]`.

Prints, for each way to make a video, the most bytes on the device by exact count and by a model of PyTorch's allocator,
beside what `info` counts, and for the last chunk what its denoising moves beside the products, its kernels, the times
that the host waits, and every fault. Exits with 1 where there is one.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from livetalk_core.config import Guidance
from livetalk_core.files import write_durably
from livetalk_core.hardware.placement import Placement

from .allocator import GIB, least
from .runs import Case, Report, run

WHOLE = Case("bfloat16")
CASES = [
    WHOLE,
    replace(WHOLE, name="FP8", placement=Placement(fp8=True)),
    replace(WHOLE, name="FP8, streamed on 16 GB", placement=Placement(True, int(15.3 * GIB))),
    replace(WHOLE, name="live", mode="stream"),
    replace(WHOLE, name="two speakers", speakers=2),
    replace(WHOLE, name="correction", correction=True),
    replace(WHOLE, name="guidance, 81 frames", guidance=Guidance(5.0, 4.0), frames=81, chunks=2),
    replace(WHOLE, name="a rank of eight", ranks=8),
]


def counted_by_info(case: Case) -> bool:
    """Whether `info` counts this case: one device, the preset's own chunks."""
    return case.ranks == 1 and case.guidance is None


def record(report: Report) -> dict[str, object]:
    """One case's figures."""
    watch = report.watch
    return {
        "case": report.case.name,
        "peak_bytes": report.peak,
        "allocator_bytes": least(report.events, expandable=True, exact=report.peak),
        "info_bytes": report.promised if counted_by_info(report.case) else None,
        "moved_bytes": watch.moved["denoise"],
        "kernels": watch.kernels["denoise"],
        "waits": sum(watch.waits.values()),
        "faults": report.faults,
    }


def line(row: dict[str, object]) -> str:
    """A row of the table."""
    names = ("peak_bytes", "allocator_bytes", "info_bytes")
    sizes = (f"{'-':>8}" if row[name] is None else f"{int(str(row[name])) / GIB:8.2f}" for name in names)
    moved = int(str(row["moved_bytes"])) / GIB
    return f"{row['case']!s:<24}{' '.join(sizes)} GiB {moved:9.1f} GiB {row['kernels']!s:>7} {row['waits']!s:>6}"


def main() -> int:
    """Run the cases that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    options = parser.parse_args()
    rows = []
    print(f"{'case':<24}{'count':>8} {'cache':>8} {'info':>8} {'moved a chunk':>17} {'kernels':>7} {'waits':>6}")
    for case in CASES:
        if not options.cases or case.name in options.cases:
            rows.append(record(run(case)))
            print(line(rows[-1]), flush=True)
            print("".join(f"  FAULT: {fault}\n" for fault in rows[-1]["faults"]), end="", flush=True)
    if options.json:
        write_durably(options.json, (json.dumps(rows, indent=1) + "\n").encode())
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
