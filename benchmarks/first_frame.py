"""How long until the first frame, in processes that have made none: after loading, and from the very start.

    python -m benchmarks.first_frame [--repeats 3] [--image FILE --audio FILE]

Each repeat is a new process with the embedded model. `wall` and `processor` seconds of importing, of loading (files
checked, weights read, portrait encoded), of the first call up to its first frame, and of the rest of the first chunk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("import", "load", "first frame", "rest of the chunk")


def measure(image: Path, audio: Path, output: Path) -> list[tuple[float, float]]:
    """Wall and processor seconds of each of `PARTS` in this process."""
    times = [_now()]

    from livetalk_core.commands.prepare import Settings, prepare  # part of what is measured
    from livetalk_core.streaming.session import Frames

    times.append(_now())
    render, _ = prepare(Settings(image, audio, output))
    times.append(_now())
    running = render.run()
    next(running)
    times.append(_now())
    while isinstance(next(running), Frames):
        pass
    times.append(_now())
    running.close()
    return [(later[0] - before[0], later[1] - before[1]) for before, later in pairwise(times)]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _measured_apart(image: Path, audio: Path) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.first_frame", "--here", folder]
        command += ["--image", str(image), "--audio", str(audio)]
        return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=ROOT / "demo" / "portrait.png")
    parser.add_argument("--audio", type=Path, default=ROOT / "demo" / "speech.wav")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)  # a child's folder for its video
    options = parser.parse_args()
    image, audio = options.image.resolve(), options.audio.resolve()
    if options.here:
        print(json.dumps(measure(image, audio, options.here / "first.mp4")))
        return
    runs = [_measured_apart(image, audio) for _ in range(max(1, options.repeats))]
    print(f"median of {len(runs)} processes{'wall s':>12}{'processor s':>14}")
    for place, name in enumerate(PARTS):
        wall, processor = (median(run[place][kind] for run in runs) for kind in (0, 1))
        print(f"{name:<22}{wall:>12.2f}{processor:>14.2f}")


if __name__ == "__main__":
    main()
