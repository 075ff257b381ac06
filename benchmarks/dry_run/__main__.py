"""The 14B model at its full shape on a GPU that is not there: `python -m benchmarks.dry_run [--json FILE] [CASE ...]`.

Prints, for each way to make a video, the most bytes on the device by exact count and by a model of PyTorch's allocator,
beside what `info` counts without its margin (no dry run sees the kernels' workspaces that it is for), how far these
two are apart, and the margin. For the last chunk, what its denoising moves beside the products and its kernels: by
PyTorch's operations, by Triton's kernels between products, and as torch.compile makes them for an H100; the times that
the host waits, and every fault. Exits with 1 where there is one.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from livetalk_core.config import Guidance
from livetalk_core.files import write_durably
from livetalk_core.hardware.fit import usable
from livetalk_core.hardware.placement import Placement

from .allocator import GIB, least
from .lowered import lowered_block, lowered_vae
from .runs import BLOCKS, DENOISE, Case, Report, run

PLAIN = Case("bfloat16")
IN_FP8 = replace(PLAIN, name="FP8", placement=Placement(fp8=True))
CASES = [
    PLAIN,
    IN_FP8,
    *(replace(IN_FP8, name=f"FP8, streamed on {gb} GB", placement=Placement(True, usable(gb))) for gb in (16, 12, 8)),
    replace(PLAIN, name="live", mode="stream"),
    replace(PLAIN, name="two speakers", speakers=2),
    replace(PLAIN, name="correction", correction=True),
    replace(PLAIN, name="guidance, 81 frames", guidance=Guidance(5.0, 4.0), frames=81, chunks=2),
    replace(PLAIN, name="a rank of eight", ranks=8),
]


def counted_by_info(report: Report) -> dict[str, int | None]:
    """What `info` says, and how much of it is its margin, of one device with the preset's own chunks."""
    case, promised = report.case, report.promised
    if promised is None or case.ranks > 1 or case.guidance is not None:
        return {"info_bytes": None, "margin_bytes": None}
    return {"info_bytes": promised.total, "margin_bytes": promised.needed["margin"]}


def compiles(case: Case) -> bool:
    """Whether `--compile` is for this case, and its blocks are as those that are counted compiled."""
    return case in (PLAIN, IN_FP8)


def compiled(report: Report) -> dict[str, int]:
    """What a chunk's denoising moves, and its kernels, where the blocks are compiled and what is beside them is not."""
    case, watch = report.case, report.watch
    block, count = lowered_block(case.preset, case.dtype, case.placement.fp8), case.blocks * case.steps
    moved, kernels = watch.moved[DENOISE] + count * block.moved, watch.kernels[DENOISE] + count * block.kernels
    return {"compiled_moved_bytes": moved, "compiled_kernels": kernels}


def fused(report: Report) -> dict[str, int]:
    """The same where Triton's kernels do what is between a block's products."""
    case, watch = report.case, report.watch
    one = run(replace(case, chunks=2, steps=1, blocks=1, fused=True)).watch
    count = case.blocks * case.steps
    moved, kernels = watch.moved[DENOISE] + count * one.moved[BLOCKS], watch.kernels[DENOISE]
    return {"fused_moved_bytes": moved, "fused_kernels": kernels + count * one.kernels[BLOCKS]}


def vae(report: Report) -> dict[str, dict[str, int]]:
    """What the VAE moves beside its convolutions in a chunk, and its kernels; the same compiled."""
    watch, lowered = report.watch, lowered_vae(report.case.preset, report.case.dtype)
    return {
        f"VAE {part}": {
            "moved_bytes": watch.moved[part], "kernels": watch.kernels[part],
            "compiled_moved_bytes": by.moved, "compiled_kernels": by.kernels,
        }
        for part, by in lowered.items()
    }  # fmt: skip


def record(report: Report) -> dict[str, Any]:
    """One case's figures."""
    watch = report.watch
    return {
        "case": report.case.name,
        "peak_bytes": report.peak,
        "allocator_bytes": least(report.events, expandable=True, exact=report.peak),
        **counted_by_info(report),
        "moved_bytes": watch.moved[DENOISE] + watch.moved[BLOCKS],
        "kernels": watch.kernels[DENOISE] + watch.kernels[BLOCKS],
        **(fused(report) | compiled(report) if compiles(report.case) else {}),
        **(vae(report) if report.case == PLAIN else {}),
        "waits": sum(watch.waits.values()),
        "faults": report.faults,
    }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    sizes = f"{row['peak_bytes'] / GIB:8.2f} {row['allocator_bytes'] / GIB:8.2f}"
    return f"{row['case']!s:<24}{sizes} {told_of(row)}{work_of(row)} {row['waits']!s:>6}"


def told_of(row: dict[str, Any]) -> str:
    """What `info` counts without its margin, how far the allocator's model is above that, and the margin."""
    if row["info_bytes"] is None:
        return f"{'-':>8} {'-':>7} {'-':>6}"
    counted = row["info_bytes"] - row["margin_bytes"]
    apart = row["allocator_bytes"] / counted - 1
    return f"{counted / GIB:8.2f} {apart:>+7.2%} {row['margin_bytes'] / GIB:6.2f}"


def work_of(row: dict[str, Any]) -> str:
    """What is moved and launched, in each of the ways."""
    cells = ""
    for way in ("", "fused_", "compiled_"):
        moved, kernels = row.get(f"{way}moved_bytes"), row.get(f"{way}kernels", "-")
        cells += f" {'-' if moved is None else f'{moved / GIB:.1f} GiB':>13} {kernels!s:>7}"
    return cells


def main() -> int:
    """Run the cases that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    options = parser.parse_args()
    rows = []
    work = " ".join(f"{name:>13} {'kernels':>7}" for name in ("a chunk moves", "fused", "compiled"))
    print(f"{'case, GiB':<24}{'count':>8} {'cache':>8} {'info':>8} {'apart':>7} {'margin':>6} {work} {'waits':>6}")
    for case in CASES:
        if not options.cases or case.name in options.cases:
            rows.append(record(run(case)))
            print(line(rows[-1]), flush=True)
            for part, by in rows[-1].items():
                if part.startswith("VAE"):
                    print(f"{part:<65}{work_of(by)}")
            print("".join(f"  FAULT: {fault}\n" for fault in rows[-1]["faults"]), end="", flush=True)
    if options.json:
        write_durably(options.json, (json.dumps(rows, indent=1) + "\n").encode())
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
