"""How many times faster the demo renders than at an earlier commit, with today's weights in both.

    python -m benchmarks.since [--commit cb650a1] [--pairs 5] [--json FILE]

Each run is a process of its own, the two commits' in turn; timed is the render alone, all models loaded. The default is
the last commit before the work on speed. Prints the median ratio of wall clock and of processor time, with the spread.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from livetalk_core.checkpoints.nano import ASSETS
from livetalk_core.hardware.machine import ROOT, describe

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


def checkout(commit: str, folder: Path) -> None:
    """The files of `commit`, with the weights of today."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    shutil.copytree(ASSETS, folder / ASSETS.relative_to(ROOT), dirs_exist_ok=True)


def run(root: Path, output: Path) -> dict[str, float]:
    """Seconds of one render by the code in `root`: wall clock, and of all processors."""
    inputs = [ROOT / "demo" / name for name in ("portrait.png", "speech.wav")]
    command = [sys.executable, "-c", RENDER, *map(str, inputs), str(output)]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(commit: str, pairs: int) -> dict[str, Any]:
    """`pairs` renders of both in turn, and how many times faster today's are: median, least, most."""
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        earlier.mkdir()
        checkout(commit, earlier)
        runs = [
            {name: run(root, Path(folder) / f"{name}{pair}.mp4") for name, root in (("then", earlier), ("now", ROOT))}
            for pair in range(pairs)
        ]
    faster = {}
    for clock in ("wall", "processor"):
        ratios = sorted(pair["then"][clock] / pair["now"][clock] for pair in runs)
        faster[clock] = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    return {"commit": commit, "runs": runs, "times_faster": faster, "machine": describe()}


def main() -> None:
    """Compare, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=BEFORE, help=f"the earlier one (default: {BEFORE})")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn (default: 5)")
    parser.add_argument("--json", type=Path, help="keep the record in this file")
    options = parser.parse_args()
    record = compare(options.commit, options.pairs)
    for clock, ratio in record["times_faster"].items():
        spread = f"{ratio['least']:.2f} .. {ratio['most']:.2f}"
        print(f"{clock}: {ratio['median']:.2f} times faster than at {options.commit} ({spread}, {options.pairs} pairs)")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
