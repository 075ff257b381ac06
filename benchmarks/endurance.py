"""Whether a fleet grows with its jobs: processes, file descriptors and memory after many, against after few.

    python -m benchmarks.endurance [--jobs 200] [--devices cpu cpu] [--kill-every N] [--json FILE]

Every job decodes a small latent, and every tenth is cancelled after its first frames. With `--kill-every` a job is a
chunk of the embedded model at 64x64, and every so many of them a worker is killed: in the middle of one job, before the
next such one, and so on by turns, another rank each time. The job after it must work.
"""

import argparse
import gc
import json
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.fleet_path import session_of
from livetalk_core.errors import WorkerError
from livetalk_core.hardware.machine import describe
from livetalk_core.models.vae import LATENT_CHANNELS
from livetalk_core.parallel.fleet import Fleet, local_fleet
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup
from livetalk_core.streaming.session import Frames, Session

WARM_UP, WARM_UP_WITH_KILLS = 20, 10
SIDE, SEED = 64, 7


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
        "sockets": [len(psutil.Process(process).net_connections("all")) for process in processes],
        "temporary files": len(list(Path(tempfile.gettempdir()).iterdir())),
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


def run_with_kills(devices: Sequence[str], jobs: int, kill_every: int) -> dict[str, Any]:
    """The same, of chunks among which workers are killed."""
    censuses, failed = {}, list[str]()
    with local_fleet(devices, "engine", fields=engine_setup("nano", torch.float32)) as fleet:
        session = session_of(fleet, SIDE, SIDE, 1)
        session.pixels = True
        for job in range(1, jobs + 1):
            kills, off = divmod(job, kill_every)
            victim = fleet.members[kills % len(devices)].about["process"] if off == 0 else None
            if victim is not None and kills % 2 == 0:
                kill(victim)
                victim = None
            try:
                compute(session, victim)
            except WorkerError as error:
                assert victim is not None, f"job {job} failed, and nobody was killed in it: {error}"
                failed.append(str(error))
            if job == min(WARM_UP_WITH_KILLS, jobs):
                censuses["early"] = census(fleet)
        censuses["late"] = census(fleet)
    return {"jobs": jobs, "kill every": kill_every, "failed": failed, "devices": list(devices), **censuses}


def compute(session: Session, victim: int | None) -> None:
    """A chunk; a process is killed when its first frames come."""
    with closing(session.run(session.start(SEED))) as events:
        for event in events:
            if isinstance(event, Frames) and victim is not None:
                kill(victim)
                victim = None


def kill(process: int) -> None:
    """Kill a worker, and wait until it is dead."""
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # its exit is for the fleet to read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs in a row")
    parser.add_argument("--kill-every", type=int, default=0, help="kill a worker with every so many jobs")
    parser.add_argument("--devices", nargs="+", default=("cpu", "cpu"), help="one worker each")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="livetalk-endurance-") as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary  # of these processes alone
        censuses = (
            run_with_kills(options.devices, options.jobs, options.kill_every)
            if options.kill_every
            else run(options.devices, options.jobs)
        )
    for moment in ("early", "late"):
        print(f"{moment}: {censuses[moment]}")
    if options.json:
        options.json.write_text(json.dumps({**censuses, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
