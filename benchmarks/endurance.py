"""Whether a fleet grows with its jobs: processes, file descriptors and memory after many, against after few.

    python -m benchmarks.endurance [--jobs 200] [--devices cpu cpu] [--json FILE]

Every job decodes a small latent, and every tenth is cancelled after its first frames.
"""

import argparse
import gc
import json
import os
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import torch

from livetalk_core.hardware.machine import describe
from livetalk_core.models.vae import LATENT_CHANNELS
from livetalk_core.parallel.fleet import Fleet, local_fleet
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup

WARM_UP = 20


def census(fleet: Fleet) -> dict[str, Any]:
    """What the controller and its workers hold now; memory in KiB."""
    gc.collect()
    processes = [os.getpid(), *(member.about["process"] for member in fleet.members)]
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {
        "processes": processes,
        "threads": threading.active_count(),
        "children": len(children.read_text().split()) if children.exists() else None,
        "descriptors": [len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes],
        "resident": [psutil.Process(process).memory_info().rss // 1024 for process in processes],
    }


def run(devices: Sequence[str], jobs: int) -> dict[str, Any]:
    """The census after the first jobs, which fill caches, and after the last."""
    censuses = {}
    with local_fleet(devices, "engine", fields=engine_setup("nano", torch.float32)) as fleet:
        engine = FleetEngine(fleet)
        for job in range(1, jobs + 1):
            with closing(engine.decode(torch.randn(LATENT_CHANNELS, 2, 4, 4))) as groups:
                next(groups)
                if job % 10:
                    list(groups)
            if job == min(WARM_UP, jobs):
                censuses["early"] = census(fleet)
        censuses["late"] = census(fleet)
    return {"jobs": jobs, "devices": list(devices), **censuses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs in a row")
    parser.add_argument("--devices", nargs="+", default=("cpu", "cpu"), help="one worker each")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    censuses = run(options.devices, options.jobs)
    for moment in ("early", "late"):
        print(f"{moment}: {censuses[moment]}")
    if options.json:
        options.json.write_text(json.dumps({**censuses, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
