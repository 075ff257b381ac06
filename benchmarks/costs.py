"""What a chunk costs against the size of the picture, and a rank's work against the number of ranks, as a picture.

    python -m benchmarks.costs [--sides 64 96 128 192 256] [--repeats 5] [--write]

Size: seconds of whole chunks of the embedded model's shape with random weights, by `bench`, beside what its counted
operations would take at the machine's measured rate. Ranks: operations of the busiest rank in a step of the 14B
transformer, from docs/figures/parallel_work.json (counted by `python -m benchmarks.parallel_work --write`). `--write`
keeps the record in docs/figures/costs.json and the picture in docs/costs.png.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from livetalk_core.commands.bench.parts import bench
from livetalk_core.hardware.machine import describe
from livetalk_core.presets import PRESETS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PRESET = "nano"


def by_size(sides: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Seconds of whole chunks of each size, and of their products alone."""
    rows = []
    for side in sides:
        record = bench(PRESETS[PRESET].sized((side, side)), torch.device("cpu"), torch.float32, repeats)
        floors, steps = record["floor_seconds"], record["steps"]
        floor = steps * floors["transformer step"] + floors["VAE decode"] + floors["VAE encode"]
        rows.append({"side": side, "seconds": record["iteration"]["seconds"], "floor_seconds": floor})
    return rows


def by_ranks(work: dict[str, Any]) -> list[dict[str, float]]:
    """The least operations of the busiest rank, over all meshes of each number of ranks."""
    counts = sorted({mesh["ranks"] for mesh in work["meshes"]})
    least = {count: min(mesh["flops"] for mesh in work["meshes"] if mesh["ranks"] == count) for count in counts}
    return [{"ranks": count, "share": least[count] / work["whole_flops"]} for count in counts]


def draw(path: Path, record: dict[str, Any]) -> None:
    """Both charts beside each other."""
    import matplotlib  # here: only the picture needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (sizes, ranks) = pyplot.subplots(1, 2, figsize=(10, 4))
    sides = [row["side"] for row in record["size"]]
    sizes.loglog(sides, [statistics.median(row["seconds"]) for row in record["size"]], "o-", label="a chunk, measured")
    sizes.loglog(sides, [row["floor_seconds"] for row in record["size"]], ".--", label="its products alone")
    sizes.set(xlabel="width and height, pixels", ylabel="seconds a chunk", title=f"{record['preset']}, CPU, float32")
    sizes.set_xticks(sides, [str(side) for side in sides], minor=False)
    sizes.minorticks_off()
    counts = [row["ranks"] for row in record["ranks"]]
    ranks.plot(counts, [row["share"] for row in record["ranks"]], "o-", label="busiest rank, counted")
    ranks.plot(counts, [1 / count for count in counts], ".--", label="1/N")
    ranks.set(xlabel="ranks", ylabel="share of the whole work", title="A step of the 14B transformer")
    for axis in (sizes, ranks):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=(64, 96, 128, 192, 256), help="of the square picture")
    parser.add_argument("--repeats", type=int, default=5, help="chunks of each size")
    parser.add_argument("--write", action="store_true", help="keep record and picture in docs")
    options = parser.parse_args()
    work = json.loads((DOCS / "figures" / "parallel_work.json").read_text())
    record = {
        "preset": PRESET, "size": by_size(options.sides, options.repeats), "ranks": by_ranks(work),
        "load": os.getloadavg(), "machine": describe(),
    }  # fmt: skip
    for row in record["size"]:
        seconds = statistics.median(row["seconds"])
        print(f"{row['side']}x{row['side']}: {seconds:.3f} s a chunk, {row['floor_seconds']:.3f} s its products alone")
    for row in record["ranks"]:
        print(f"{row['ranks']} rank(s): the busiest does {row['share']:.1%} of the work")
    if options.write:
        (DOCS / "figures" / "costs.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(DOCS / "costs.png", record)


if __name__ == "__main__":
    main()
