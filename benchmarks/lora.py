"""What LoRAs of one person give: held-out clips of a drawn person, without and with each of them.

    python -m benchmarks.lora --lora FILE [STRENGTH] [--lora FILE [STRENGTH] ...] [--model nano] [--person 1]
        [--seconds 10] [--clips 4] [--json FILE]

In each clip the person says other words and moves in other ways, none of which training saw, from another portrait and
noise; all entrants play the same clips. `person`: over the aligned head, eyes, brows and mouth included, the distance
(CIE76) to the nearest of `KNOWN` frames of the person as drawn in another take, so that blinks and open mouths are no
distance; `person, features`: the same of eyes, brows and mouth alone. `features` and what follows are distances to the
portrait, of which the person as drawn has some, too; patches' are one less their correlation.

`drawn` is the person's own clips, through the VAE: what a perfect transformer would leave, so no LoRA comes nearer by
more than that. `nearer by` is the share of the distance that is gone; `of the way`, the share of that between the model
and the person's own clips, with its deviation over the clips.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from livetalk_core.commands.loras import Lora
from livetalk_core.config import StreamConfig
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
PERSON = "person_"
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
    def of(cls, cast: Cast, measurer: Measurer) -> "Person":
        """The cast's person, in a take that is not measured."""
        take = TakeSource(cast.speech, cast.seed + 1, "held", person=cast.person).take(0)
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
    stream: StreamConfig = field(init=False)
    """See `Performer`."""

    def __post_init__(self) -> None:
        self.stream = self.performer.stream

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
    """An entrant's clips, and the distance of each."""

    entrant: Entrant
    row: Row
    distances: list[Distances]

    def clips(self, name: str) -> list[float]:
        """Of `Distances`, named `person_head` and so on, or of `NEARER`, the distance in each clip."""
        if name.startswith(PERSON):
            return [getattr(one, name.removeprefix(PERSON)) for one in self.distances]
        values = [getattr(scores, name) for scores in self.row.scores]
        return values if name in ("features", "identity") else [1 - value for value in values]


class Share(NamedTuple):
    """Of the distance between a model and a person's own clips, what is gone, and its deviation over the clips."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, without: Sequence[float], having: Sequence[float], own: Sequence[float]) -> "Share | None":
        """From a distance in each clip; none where the person's own clips are no nearer than the model's."""
        ways = [far - near for far, near in zip(without, own, strict=True)]
        if min(ways) <= 0:
            return None
        gone = [far - nearer for far, nearer in zip(without, having, strict=True)]
        return cls(fmean(gone) / fmean(ways), pstdev(one / way for one, way in zip(gone, ways, strict=True)))

    def __str__(self) -> str:
        return f"{self.mean:.0%} ± {100 * self.deviation:.0f}"


def measure(entrant: Entrant, protocol: Protocol, measurer: Measurer) -> Measured:
    """All clips of the cast's person."""
    cast, person = protocol.cast, Person.of(protocol.cast, measurer)
    performer, outcomes, distances = entrant.open(protocol.device, protocol.dtype), list[Outcome](), list[Distances]()
    for clip in range(protocol.faces):
        watched = Watched(performer, person)
        outcomes.append(perform(watched, cast.subject(clip), clip, measurer))
        distances.append(watched.distances)
    row = Row.of(str(entrant), outcomes, protocol.targets(texture_scale(cast.size)))
    return Measured(entrant, row, distances)


def table(measured: list[Measured]) -> str:
    """Each score without, with each LoRA, and of the person's own clips; how much nearer, and how much of the way."""
    names = [f"with {_name(one)} | nearer by | of the way" for one in measured[1:-1]]
    lines = [f"| | without | {' | '.join(names)} | drawn |", "|---" * (3 + 3 * len(names)) + "|"]
    for name in (*(PERSON + one for one in Distances._fields), *NEARER):
        lines.append(f"| {name}, distance {_nearer(name, measured)}")
    for name in AS_GOOD:
        values = [one.row.spread(name)[0] for one in measured]
        cells = " | ".join(f"{value:.3f} | |" for value in values[1:-1])
        lines.append(f"| {name} | {values[0]:.3f} | {cells} | {values[-1]:.3f} |")
    return "\n".join(lines)


def _nearer(name: str, measured: list[Measured]) -> str:
    without, *others, drawn = (one.clips(name) for one in measured)
    cells = (
        f"{fmean(clips):.3f} | {1 - fmean(clips) / fmean(without):.0%} | {Share.of(without, clips, drawn) or ''}"
        for clips in others
    )
    return f"| {fmean(without):.3f} | {' | '.join(cells)} | {fmean(drawn):.3f} |"


def _name(one: Measured) -> str:
    """Of the LoRA: its file, and its strength where it is not 1."""
    entrant = one.entrant
    strength = "" if entrant.strength == 1 else f" at {entrant.strength:g}"
    return f"{entrant.lora.name}{strength}" if entrant.lora else entrant.model


def record(one: Measured, without: Measured, drawn: Measured) -> dict[str, Any]:
    """Means and deviations, the distances of each clip and the share of the way, for a JSON file."""
    names = [PERSON + field for field in Distances._fields]
    shares = {name: Share.of(*(row.clips(name) for row in (without, one, drawn))) for name in names}
    return {
        "name": _name(one),
        **{name: (fmean(one.clips(name)), pstdev(one.clips(name))) for name in names},
        **{field: one.row.spread(field) for field in Scores._fields},
        "clips": {name: one.clips(name) for name in names},
        "of_the_way": shares if one not in (without, drawn) else {},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", nargs="+", action="append", required=True, metavar=("FILE", "STRENGTH"))
    parser.add_argument("--model", type=Entrant.parse, default=Entrant())
    parser.add_argument("--person", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loras = map(Lora.parse, options.lora)
    having = [replace(options.model, lora=lora.path, strength=lora.strength) for lora in loras]
    entrants = (options.model, *having, Entrant(DRAWN))
    settings = Settings(entrants, options.seconds, options.clips, 1, options.speech)
    if options.json:
        check_place(options.json)
    protocol, measurer = settings.protocol, load_measurer()
    protocol = replace(protocol, cast=replace(protocol.cast, person=options.person))
    measured = [measure(entrant, protocol, measurer) for entrant in entrants]
    print(table(measured))
    if options.json:
        kept: dict[str, Any] = {
            "person": options.person, "seconds": options.seconds, "clips": options.clips, "machine": describe(),
            "rows": [record(one, measured[0], measured[-1]) for one in measured],
        }  # fmt: skip
        write_durably(options.json, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
