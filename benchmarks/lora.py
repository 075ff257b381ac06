"""What LoRAs of one person give: held-out takes of a drawn person, without and with each of them.

    python -m benchmarks.lora --lora FILE [--lora FILE ...] [--model nano] [--person 1] [--seconds 10] [--seeds 3]
        [--json FILE]

The person speaks with a voice and moves in ways that training never saw, from the same noise each time. `person`: over
the aligned head, eyes, brows and mouth included, the distance (CIE76) to the nearest of `KNOWN` frames of the person as
drawn in another take, so that blinks and open mouths are no distance; `person, eyes and mouth`: the same of these
alone. `features` and what follows are distances to the portrait, of which the person as drawn has some, too; patches'
are one less their correlation. `drawn` is the person as drawn, through the VAE: what a perfect transformer would leave.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from livetalk_core.files import check_place, write_durably
from livetalk_core.hardware.machine import describe
from livetalk_core.streaming.session import ChunkEnd, Frames, Session
from livetalk_core.streaming.state import StreamState
from livetalk_core.training.data import TakeSource, video
from livetalk_core.training.evaluation.command import Settings
from livetalk_core.training.evaluation.entrants import DRAWN, Entrant
from livetalk_core.training.evaluation.evaluate import Protocol, Row, texture_scale
from livetalk_core.training.evaluation.identity import aligned_face
from livetalk_core.training.evaluation.measurer import Measurer, load_measurer
from livetalk_core.training.evaluation.metrics import LATE, Scores
from livetalk_core.training.evaluation.performers import Performer
from livetalk_core.training.evaluation.rollout import Outcome, perform
from livetalk_core.training.evaluation.subjects import Cast, Subject

KNOWN = 50
"""Frames that say what the person looks like, of a take of 8 s."""
NEARER = ("features", "identity", "eyes", "brows", "mouth", "hairline", "eyes_late")
"""Distances to the portrait: those of patches are one less their correlation."""
AS_GOOD = ("lip_sync", "width_sync", "sharpness", "picture", "head_motion", "blinks")


class Distances(NamedTuple):
    """Of one stream to the person: the whole head, eyes and mouth alone, and both in the last two seconds."""

    head: float
    features: float
    head_late: float
    features_late: float


@dataclass
class Person:
    """What a person looks like: colours at the places of the head, and of eyes and mouth, in K frames: [K,P,3]."""

    measurer: Measurer
    head: Tensor
    features: Tensor

    @classmethod
    def of(cls, cast: Cast, number: int, measurer: Measurer) -> "Person":
        """A held-out person, in a take that is not measured."""
        take = TakeSource(cast.speech, cast.seed + 1, "held", person=number).take(0)
        index = torch.linspace(0, len(take.pose.x) - 1, KNOWN).long()
        return cls(measurer, *cls._seen(video([take], index[None], cast.size)[0], measurer))

    def distances(self, frames: Tensor) -> Tensor:
        """Of frames [3,n,H,W] to the nearest that is known: [2,n], the whole head's and the features'."""
        pairs = zip(self._seen(frames, self.measurer), (self.head, self.features), strict=True)
        return torch.stack(
            [torch.stack([(known - one).norm(dim=-1).mean(-1).min() for one in s]) for s, known in pairs]
        )

    @staticmethod
    def _seen(frames: Tensor, measurer: Measurer) -> tuple[Tensor, Tensor]:
        measures = measurer.measure(frames)
        rest, features = (aligned_face(frames, measures, features=which) for which in (False, True))
        return torch.cat([rest, features], dim=1), features


@dataclass
class Watched:
    """A performer, and how far its frames are from a person."""

    performer: Performer
    person: Person
    seen: list[Tensor] = field(default_factory=list)

    @property
    def stream(self) -> Any:
        """See `Performer`."""
        return self.performer.stream

    def session(self, subject: Subject) -> Any:
        """See `Performer`."""
        return _WatchedSession(self.performer.session(subject), self)

    @property
    def distances(self) -> Distances:
        """Means over the frames."""
        seen = torch.cat(self.seen, dim=1)
        return Distances(*seen.mean(1).tolist(), *seen[:, -LATE:].mean(1).tolist())


class _WatchedSession:
    def __init__(self, session: Session, watched: Watched) -> None:
        self.session, self.watched, self.start = session, watched, session.start

    def run(self, state: StreamState) -> Iterator[Frames | ChunkEnd]:
        for event in self.session.run(state):
            if isinstance(event, Frames):
                self.watched.seen.append(self.watched.person.distances(event.frames.float()))
            yield event


class Measured(NamedTuple):
    """An entrant's streams, and the distance of each."""

    row: Row
    distances: list[Distances]

    def spread(self, name: str) -> tuple[float, float]:
        """Mean and deviation of a distance over the streams."""
        values = [getattr(one, name) for one in self.distances]
        return fmean(values), pstdev(values)

    def distance(self, name: str) -> float:
        """Of `NEARER`, the mean over the streams."""
        value = self.row.spread(name)[0]
        return value if name in ("features", "identity") else 1 - value


def measure(entrant: Entrant, protocol: Protocol, number: int, measurer: Measurer) -> Measured:
    """All streams of one person."""
    own = replace(protocol.of(entrant), faces=number + 1)
    subject, person = own.cast.subject(number), Person.of(own.cast, number, measurer)
    performer, outcomes, distances = entrant.open(own.device, own.dtype), list[Outcome](), list[Distances]()
    for seed in range(own.seeds):
        watched = Watched(performer, person)
        outcomes.append(perform(watched, subject, seed, measurer))
        distances.append(watched.distances)
    target = own.targets(texture_scale(own.cast.size))[number]
    return Measured(Row.of(str(entrant), outcomes, [target] * own.seeds), distances)


def table(measured: list[Measured]) -> str:
    """Each score without, with each LoRA, and of the drawn person; how much nearer: the share of the distance gone."""
    without, *others, drawn = measured
    names = [f"with {Path(str(one.row.name).partition('lora=')[2]).stem} | nearer by" for one in others]
    lines = [f"| | without | {' | '.join(names)} | drawn |", "|---" * (3 + 2 * len(others)) + "|"]
    for name in Distances._fields:
        lines.append(_line(f"person, {name}", [one.spread(name)[0] for one in measured], nearer=True))
    for name in NEARER:
        lines.append(_line(f"{name}, distance", [one.distance(name) for one in measured], nearer=True))
    for name in AS_GOOD:
        lines.append(_line(name, [one.row.spread(name)[0] for one in (without, *others, drawn)], nearer=False))
    return "\n".join(lines)


def _line(name: str, values: list[float], nearer: bool) -> str:
    without, *others, drawn = values
    cells = [f"{value:.3f} | {f'{1 - value / without:.0%}' if nearer else ''}" for value in others]
    return f"| {name} | {without:.3f} | {' | '.join(cells)} | {drawn:.3f} |"


def record(one: Measured) -> dict[str, Any]:
    """Means and deviations, for a JSON file."""
    name, _, lora = one.row.name.partition(",lora=")
    distances = {f"person_{field}": one.spread(field) for field in Distances._fields}
    scores = {field: one.row.spread(field) for field in Scores._fields}
    return {"name": f"{name}{f', with {Path(lora).name}' if lora else ''}", **distances, **scores}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", type=Path, required=True, action="append")
    parser.add_argument("--model", type=Entrant.parse, default=Entrant())
    parser.add_argument("--person", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    entrants = (options.model, *(replace(options.model, lora=lora) for lora in options.lora), Entrant(DRAWN))
    settings = Settings(entrants, options.seconds, 1, options.seeds, options.speech)
    if options.json:
        check_place(options.json)
    protocol, measurer = settings.protocol, load_measurer()
    measured = [measure(entrant, protocol, options.person, measurer) for entrant in entrants]
    print(table(measured))
    if options.json:
        kept: dict[str, Any] = {
            "person": options.person, "seconds": options.seconds, "seeds": options.seeds, "machine": describe(),
            "rows": [record(one) for one in measured],
        }  # fmt: skip
        write_durably(options.json, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
