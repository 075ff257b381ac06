"""Random faults under real renders, each drawn from a seed: what is said of them, and how soon; what stays whole.

    python -m benchmarks.faults [--faults 200] [--seed 0] [--first 0] [--seconds N] [--json FILE]
    python -m benchmarks.faults --hosts [--only kill] [--faults 60] ...    # as root, with ip and nft

Workers of the embedded model (`cpu x2`, every fourth of the faults `cpu x3`) are killed, stopped, cut off, held up or
left without descriptors at random moments of load, denoise, decode and encode; so is the controller. Each fault must be
named with its worker within 15 s; chunks that are on the disk must play; the render, taken up again, must have the
frames of one that nothing happened to; no process, descriptor, thread or temporary file may be left. `cases.py` says
what the errors must say. `--json` keeps the figures, and tries none again that are there: `--seconds` makes parts.

With `--hosts` there is a worker that stays (`worker --stay`) on each of two hosts, which are network namespaces; one is
killed or stopped, the second host is cut off, or a tenth of its packets is lost.
"""

import argparse
import fcntl
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from livetalk_core.hardware.machine import describe

from . import forked
from .cases import FAULTS, Case, Fault, draw
from .grounds import LocalGround
from .hosts import RemoteGround, in_two_hosts
from .trial import Trial

MORE_RANKS_EVERY = 4


class Draws(NamedTuple):
    """Which cases are drawn: those of some numbers, of some faults or of all."""

    seed: int
    numbers: Sequence[int]
    only: Sequence[str]

    def case(self, number: int, ranks: int, faults: Mapping[str, Fault]) -> Case:
        """One of them."""
        return draw(self.seed, number, ranks, {name: faults[name] for name in self.only or faults})


def local_trials(draws: Draws, folder: Path, temporary: Path) -> Iterator[dict[str, Any]]:
    """Trials on this machine, by number of ranks, so that few fleets are started."""
    for ranks in (2, 3):
        chosen = [number for number in draws.numbers if ranks == (3 if number % MORE_RANKS_EVERY == 3 else 2)]
        ground = LocalGround(ranks)
        with ground.fleet:
            trial = Trial(ground, made(folder / str(ranks)), temporary) if chosen else None
            for number in chosen:
                assert trial is not None
                yield trial.run(draws.case(number, ranks, FAULTS))


def remote_trials(draws: Draws, folder: Path, temporary: Path) -> Iterator[dict[str, Any]]:
    """Trials over two hosts; this process is on the first one."""
    with RemoteGround() as ground:
        trial = Trial(ground, folder, temporary)
        for number in draws.numbers:
            yield trial.run(draws.case(number, ground.ranks, ground.faults))


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def line(row: dict[str, Any]) -> str:
    """A trial in a line."""
    where = f"{row['fault']}, worker {row['rank']} of {row['ranks']}, {row['moment']:.2f} of {row['stage']}"
    what = "too late" if not row["done"] else "nothing said" if row["after"] is None else f"{row['after']:.1f} s"
    return f"{row['number']:3d} {where}: {what}; {'; '.join(row['problems']) or 'good'}"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is kept: figures of each kind of fault, and all that was not as it must be."""
    kinds: dict[str, Any] = {}
    for fault in dict.fromkeys(row["fault"] for row in rows):
        done = [row for row in rows if row["fault"] == fault and row["done"]]
        after = [row["after"] for row in done if row["after"] is not None]
        kinds[fault] = {
            "tried": len(done),
            "good": sum(not row["problems"] for row in done),
            "said": len(after),
            "median_seconds": round(statistics.median(after), 1) if after else None,
            "most_seconds": round(max(after), 1) if after else None,
        }
    wrong = [line(row) for row in rows if row["problems"]]
    stages = {stage: sum(row["stage"] == stage and row["done"] for row in rows) for stage in {r["stage"] for r in rows}}
    too_late = sum(not row["done"] for row in rows)
    return {"faults": kinds, "stages": stages, "over_before_the_fault": too_late, "wrong": wrong}


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| fault | tried | as they must be | named after, s: median, most |", "|---|---|---|---|"]
    for fault, kind in figures["faults"].items():
        times = kind["median_seconds"], kind["most_seconds"]
        after = "nothing to name" if times[0] is None else "{}, {}".format(*times)
        lines.append(f"| {fault} | {kind['tried']} | {kind['good']} | {after} |")
    return "\n".join(lines)


def run(hosts: bool, draws: Draws) -> Generator[dict[str, Any], None, None]:
    """All trials, each as it ends."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    forked.begin()
    with tempfile.TemporaryDirectory(prefix="livetalk-faults-") as name:
        temporary = made(Path(name) / "temporary")
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
        try:
            trials = remote_trials if hosts else local_trials
            yield from trials(draws, made(Path(name) / "videos"), temporary)
        finally:
            tempfile.tempdir = None


@contextmanager
def held(path: Path) -> Iterator[IO[str]]:
    """A file of figures, to be read and written anew, while no other process has it."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def kept(path: Path | None, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """The trials of this seed that a file has, by their numbers."""
    if path is None or not path.exists():
        return {}
    with held(path) as file:
        figures = json.loads(file.read() or "{}").get(name, {})
    return figures.get("trials", {}) if figures.get("seed") == seed else {}


def keep(path: Path, name: str, seed: int, row: dict[str, Any]) -> None:
    """Put a trial into a file, beside its others of this seed and what else it holds."""
    with held(path) as file:
        figures = json.loads(file.read() or "{}")
        before = figures.get(name, {})
        trials = before.get("trials", {}) if before.get("seed") == seed else {}
        trials[str(row["number"])] = {**row, **{part: round(row[part], 2) for part in ("moment", "seconds")}}
        trials = dict(sorted(trials.items(), key=lambda item: int(item[0])))
        of_these = {"seed": seed, "machine": describe(), **summary(list(trials.values())), "trials": trials}
        file.truncate(0)
        file.write(json.dumps({**figures, name: of_these}, indent=1) + "\n")


def main() -> int:
    """Try, print, keep; 1 where something was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further one after so long")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=(), metavar="FAULT", help="faults to draw from")
    parser.add_argument("--hosts", action="store_true", help="between two network namespaces of this machine, as root")
    parser.add_argument("--json", type=Path, help="also keep the trials in this file, beside what else it holds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended
    if options.hosts and (code := in_two_hosts(sys.argv[1:])) is not None:
        return code
    name = ": ".join(["two hosts" if options.hosts else "one host", *options.only])
    rows = kept(options.json, name, options.seed)
    numbers = [number for number in range(options.first, options.first + options.faults) if str(number) not in rows]
    until = time.monotonic() + options.seconds
    with closing(run(options.hosts, Draws(options.seed, numbers, options.only))) as trials:
        for row in trials:
            rows[str(row["number"])] = row
            print(line(row), flush=True)
            if options.json:
                keep(options.json, name, options.seed, row)
            if time.monotonic() > until:
                break
    print(table(summary(list(rows.values()))))
    return int(any(row["problems"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
