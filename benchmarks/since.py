"""How many times faster the demo, or each part of a model, runs than at an earlier commit, with the same weights.

    python -m benchmarks.since [--commit cb650a1] [--pairs 5] [--json FILE]
    python -m benchmarks.since --commit 3231cb5 --parts nano small [--size 96x96] [--json FILE]

Each run is a process of its own, the two commits' in turn; timed is the render alone, all models loaded, or with
`--parts` what `bench` times. The default is the last commit before the work on speed. Prints ratios: the median of the
pairs with its spread, and that of the least times, which other work on the machine disturbs least.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from livetalk_core.checkpoints.nano import ASSETS
from livetalk_core.hardware.machine import ROOT, describe

from .preparation import checkout

BEFORE = "cb650a1"
RENDER = """
import json, sys, time
from pathlib import Path
from livetalk_core.commands.prepare import Settings, prepare
image, audio, output = map(Path, sys.argv[1:])
render, _ = prepare(Settings(image, audio, output))
wall, processor = time.perf_counter(), time.process_time()
for _ in render.run():
    pass
print(json.dumps({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}))
"""


def checkout_with_weights(commit: str, folder: Path) -> None:
    """The files of `commit`, with the weights of today."""
    checkout(commit, folder)
    shutil.copytree(ASSETS, folder / ASSETS.relative_to(ROOT), dirs_exist_ok=True)


def run(root: Path, output: Path) -> dict[str, float]:
    """Seconds of one render by the code in `root`: wall clock, and of all processors."""
    inputs = [ROOT / "demo" / name for name in ("portrait.png", "speech.wav")]
    command = [sys.executable, "-c", RENDER, *map(str, inputs), str(output)]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bench(root: Path, output: Path, preset: str, size: str | None) -> dict[str, float]:
    """The least seconds of each part that the code in `root` times, and of a whole chunk ("chunk")."""
    options = ["--preset", preset, *(["--size", size] if size else []), "--repeats", "3", "--json", str(output)]
    subprocess.run(
        [sys.executable, "-m", "livetalk_core", "bench", *options], cwd=root, check=True, capture_output=True
    )
    record = json.loads(output.read_text())
    return {part: times["least"] for part, times in record["seconds"].items()} | {
        "chunk": min(record["iteration"]["seconds"])
    }


def in_turn(commit: str, pairs: int, timed: Callable[[Path, Path], dict[str, float]]) -> dict[str, Any]:
    """`timed(root, output)` of both commits in `pairs` turns, either first; how many times faster today's is."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        earlier.mkdir()
        checkout_with_weights(commit, earlier)
        roots = [("then", earlier), ("now", ROOT)]
        for pair in range(pairs):
            order = roots if pair % 2 == 0 else reversed(roots)
            runs.append({name: timed(root, Path(folder) / f"{name}{pair}.mp4") for name, root in order})
    return {
        "runs": runs,
        "times_faster": {name: faster(runs, name) for name in runs[0]["now"] if name in runs[0]["then"]},
    }


def faster(runs: list[dict[str, dict[str, float]]], name: str) -> dict[str, float]:
    """Then by now: the median, least and most of the pairs, and the ratio of the least times."""
    then, now = ([run[when][name] for run in runs] for when in ("then", "now"))
    ratios = sorted(before / after for before, after in zip(then, now, strict=True))
    return {
        "median": statistics.median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
        "of_least_times": min(then) / min(now),
    }


def report(title: str, record: dict[str, Any]) -> None:
    """Print a line for each ratio of a record."""
    for name, ratio in record["times_faster"].items():
        spread = f"{ratio['least']:.2f} .. {ratio['most']:.2f}, least times {ratio['of_least_times']:.3f}"
        print(f"{title}{name}: {ratio['median']:.3f} times faster ({spread}, {len(record['runs'])} pairs)", flush=True)


def main() -> None:
    """Compare, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=BEFORE, help=f"the earlier one (default: {BEFORE})")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn (default: 5)")
    parser.add_argument("--parts", nargs="+", metavar="PRESET", help="what `bench` times of these, in the demo's place")
    parser.add_argument("--size", help="WIDTHxHEIGHT of `--parts` (default: each preset's)")
    parser.add_argument("--json", type=Path, help="keep the record in this file")
    options = parser.parse_args()
    if options.parts:
        record = {"commit": options.commit, "parts": {}, "machine": describe()}
        for preset in options.parts:
            timed = partial(bench, preset=preset, size=options.size)
            record["parts"][preset] = in_turn(options.commit, options.pairs, timed)
            report(f"{preset}, ", record["parts"][preset])
    else:
        record = {"commit": options.commit, **in_turn(options.commit, options.pairs, run), "machine": describe()}
        report("", record)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
