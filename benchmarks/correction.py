"""What each part of retrospection gives, on a model that is disturbed in a stated way.

    python -m benchmarks.correction [--model nano,disturbance=0.3,color=0] [--seconds 100] [--faces 4] [--seeds 1]
        [--strength 0.5] [--workers 2] [--only NAME ...] [--json FILE]

All variants play the same held-out people from the same noise (`evaluate`): without correction; with its means,
contrast, sharpness or regions alone; with all, but chunks not joined; with everything. First and last: the first and
the last 50 s (halves of a shorter stream).
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from livetalk_core.files import check_place, write_durably
from livetalk_core.hardware.machine import describe
from livetalk_core.streaming import correction, joining
from livetalk_core.training.evaluation.command import Settings
from livetalk_core.training.evaluation.entrants import Entrant
from livetalk_core.training.evaluation.evaluate import Protocol, Row, texture_scale
from livetalk_core.training.evaluation.rollout import Job, Outcome, run, run_all

OVER_TIME = ("identity", "color", "sharpness")
OVERALL = ("lip_sync", "head_motion", "picture", "border_motion")


class Variant(NamedTuple):
    """Which parts of drift are corrected (means, contrast, sharpness, regions), and whether chunks are joined."""

    name: str
    parts: tuple[bool, bool, bool, bool]
    joined: bool


OFF = Variant("off", (False, False, False, False), False)
VARIANTS = (
    OFF,
    Variant("means", (True, False, False, False), True),
    Variant("contrast", (False, True, False, False), True),
    Variant("sharpness", (False, False, True, False), True),
    Variant("regions", (False, False, False, True), True),
    Variant("joined", (False, False, False, False), True),
    Variant("not joined", (True, True, True, True), False),
    Variant("all", (True, True, True, True), True),
)


@contextmanager
def only(variant: Variant) -> Iterator[None]:
    """Correction as the variant has it."""
    passed = correction.passed
    corrected = torch.tensor(variant.parts).repeat_interleave(torch.tensor([1, 1, 1, correction.REGIONS**2]))

    def chosen(drift: torch.Tensor, threshold: float) -> torch.Tensor:
        return passed(drift, threshold) & corrected

    def close(seam: joining.Seam, frames: torch.Tensor, first: int) -> torch.Tensor:
        return frames

    joined = joining.Seam.close if variant.joined else close
    with patch.object(correction, "passed", chosen), patch.object(joining.Seam, "close", joined):
        yield


def perform(job: Job, variant: Variant) -> Outcome:
    """One stream of a variant."""
    with only(variant):
        return run(job)


def measure(entrant: Entrant, protocol: Protocol, strength: float, variants: Sequence[Variant] = VARIANTS) -> list[Row]:
    """A row for each variant, of which the first is that without correction."""
    targets, rows = protocol.targets(texture_scale(protocol.cast.size)), []
    for variant in variants:
        jobs = protocol.jobs(replace(entrant, correction=0.0 if variant == OFF else strength))
        outcomes = list(run_all(jobs, protocol.workers, partial(perform, variant=variant)))
        rows.append(Row.of(variant.name, outcomes, [targets[job.subject] for job in jobs]))
        print(line(rows[-1], rows[0]), flush=True)
    return rows


def line(row: Row, off: Row) -> str:
    """A line of the table."""
    first, last = ([windows[place] for windows in row.windows] for place in (0, -1))
    course = (fmean(getattr(one, name) for one in part) for name in OVER_TIME for part in (first, last))
    overall = (row.spread(name)[0] for name in OVERALL)
    seconds = row.seconds_per_second / off.seconds_per_second
    return f"| {row.name} | " + " | ".join(f"{value:.3f}" for value in (*course, *overall, seconds)) + " |"


def head() -> str:
    """The table's first lines."""
    names = (
        "correction",
        *(f"{name}, {part}" for name in OVER_TIME for part in ("first", "last")),
        *OVERALL,
        "seconds",
    )
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Entrant.parse, default=Entrant.parse("nano,disturbance=0.3,color=0"))
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2)
    names = [variant.name for variant in VARIANTS if variant != OFF]
    parser.add_argument(
        "--only", choices=names, nargs="+", default=names, help="variants beside that without correction"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = Settings((options.model,), options.seconds, options.faces, options.seeds, workers=options.workers)
    if options.json:
        check_place(options.json)
    print(head(), flush=True)
    variants = [variant for variant in VARIANTS if variant == OFF or variant.name in options.only]
    rows = measure(options.model, settings.protocol, options.strength, variants)
    if options.json:
        record: dict[str, Any] = {
            "model": str(options.model), "seconds": options.seconds, "faces": options.faces, "seeds": options.seeds,
            "strength": options.strength, "machine": describe(), "rows": [row.record() for row in rows],
        }  # fmt: skip
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
