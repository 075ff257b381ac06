"""What a LoRA of one person gives: held-out takes of a drawn person, without and with it.

    python -m benchmarks.lora --lora FILE [--person 1] [--seconds 10] [--seeds 3] [--workers 1] [--json FILE]

The person speaks with voices and moves in ways that training never saw, from the same noise both times. `distance`: to
the portrait over the aligned head, eyes, brows and mouth included (CIE76); the patches' distances are one less their
correlation. `drawn` is the person as drawn, through the VAE: what a perfect transformer would leave.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from livetalk_core.files import check_place, write_durably
from livetalk_core.hardware.machine import describe
from livetalk_core.training.evaluation.command import Settings
from livetalk_core.training.evaluation.entrants import DRAWN, Entrant
from livetalk_core.training.evaluation.evaluate import Protocol, Row, texture_scale
from livetalk_core.training.evaluation.metrics import Scores
from livetalk_core.training.evaluation.rollout import run_all

NEARER = ("features", "identity", "eyes", "brows", "mouth", "hairline", "eyes_late")
"""Distances to the person: those of patches are one less their correlation."""
AS_GOOD = ("lip_sync", "width_sync", "sharpness", "picture", "head_motion", "blinks")


def measure(entrant: Entrant, protocol: Protocol, person: int) -> Row:
    """All streams of one person."""
    own = protocol.of(entrant)
    jobs = [job for job in replace(own, faces=person + 1).jobs(entrant) if job.subject == person]
    target = replace(own, faces=person + 1).targets(texture_scale(own.cast.size))[person]
    return Row.of(str(entrant), list(run_all(jobs, own.workers)), [target] * len(jobs))


def distances(row: Row) -> dict[str, float]:
    """Of `NEARER`, means over the streams."""
    means = {name: row.spread(name)[0] for name in NEARER}
    return {name: value if name in ("features", "identity") else 1 - value for name, value in means.items()}


def table(rows: list[Row]) -> str:
    """Each score without, with, and of the drawn person; how much nearer is the share of the distance that is gone."""
    without, with_lora, drawn = rows
    lines = ["| | without | with | nearer by | drawn |", "|---|---|---|---|---|"]
    for name in NEARER:
        first, second, bound = (distances(row)[name] for row in rows)
        lines.append(f"| {name}, distance | {first:.3f} | {second:.3f} | {1 - second / first:.0%} | {bound:.3f} |")
    for name in AS_GOOD:
        cells = (f"{row.spread(name)[0]:.3f}" for row in (without, with_lora))
        lines.append(f"| {name} | {' | '.join(cells)} | | {drawn.spread(name)[0]:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--person", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    entrants = (Entrant(), Entrant(lora=options.lora), Entrant(DRAWN))
    settings = Settings(entrants, options.seconds, 1, options.seeds, options.speech, workers=options.workers)
    if options.json:
        check_place(options.json)
    rows = [measure(entrant, settings.protocol, options.person) for entrant in entrants]
    print(table(rows))
    if options.json:
        record: dict[str, Any] = {
            "person": options.person, "seconds": options.seconds, "seeds": options.seeds, "machine": describe(),
            "rows": [
                {"name": row.name.split(",")[0] + (", with the LoRA" if "lora" in row.name else ""),
                 **{name: row.spread(name) for name in Scores._fields}} for row in rows
            ],
        }  # fmt: skip
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
