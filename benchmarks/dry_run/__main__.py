"""The 14B model at its full shape on a GPU that is not there: `python -m benchmarks.dry_run [--json FILE] [CASE ...]`.

Prints, for each way to make a video, the most bytes on the device by exact count and by a model of PyTorch's allocator,
beside what `info` counts, and for the last chunk what its denoising moves beside the products and its kernels, both
uncompiled and as torch.compile makes them for an H100, the times that the host waits, and every fault. Exits with 1
where there is one.
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
from .lowered import lowered_block
from .runs import BLOCKS, DENOISE, Case, Report, run

WHOLE = Case("bfloat16")
IN_FP8 = replace(WHOLE, name="FP8", placement=Placement(fp8=True))
CASES = [
    WHOLE,
    IN_FP8,
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


def compiles(case: Case) -> bool:
    """Whether `--compile` is for this case, and its blocks are as those that are counted compiled."""
    return case in (WHOLE, IN_FP8)


def compiled(report: Report) -> dict[str, int]:
    """What a chunk's denoising moves, and its kernels, where the blocks are compiled and what is beside them is not."""
    case, watch = report.case, report.watch
    block, count = lowered_block(case.preset, case.dtype, case.placement.fp8), case.blocks * case.steps
    moved, kernels = watch.moved[DENOISE] + count * block.moved, watch.kernels[DENOISE] + count * block.kernels
    return {"compiled_moved_bytes": moved, "compiled_kernels": kernels}


def record(report: Report) -> dict[str, object]:
    """One case's figures."""
    watch = report.watch
    return {
        "case": report.case.name,
        "peak_bytes": report.peak,
        "allocator_bytes": least(report.events, expandable=True, exact=report.peak),
        "info_bytes": report.promised if counted_by_info(report.case) else None,
        "moved_bytes": watch.moved[DENOISE] + watch.moved[BLOCKS],
        "kernels": watch.kernels[DENOISE] + watch.kernels[BLOCKS],
        **(compiled(report) if compiles(report.case) else {}),
        "waits": sum(watch.waits.values()),
        "faults": report.faults,
    }


def line(row: dict[str, object]) -> str:
    """A row of the table."""
    names = ("peak_bytes", "allocator_bytes", "info_bytes")
    sizes = (f"{'-':>8}" if row[name] is None else f"{int(str(row[name])) / GIB:8.2f}" for name in names)
    work = ""
    for moved, kernels in (("moved_bytes", "kernels"), ("compiled_moved_bytes", "compiled_kernels")):
        size = f"{int(str(row[moved])) / GIB:9.1f} GiB" if moved in row else f"{'-':>13}"
        work += f" {size} {row.get(kernels, '-')!s:>7}"
    return f"{row['case']!s:<24}{' '.join(sizes)} GiB{work} {row['waits']!s:>6}"


def main() -> int:
    """Run the cases that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    options = parser.parse_args()
    rows = []
    work = f"{'a chunk moves':>13} {'kernels':>7} {'compiled':>13} {'kernels':>7}"
    print(f"{'case':<24}{'count':>8} {'cache':>8} {'info':>8}     {work} {'waits':>6}")
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
