"""What goes wrong, when and where, drawn from a seed; and what the error must then say."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

STAGES = ("load", "denoise", "decode", "encode")
CHUNKS = 3
"""Of each render."""


class Fault(NamedTuple):
    """`says` is what the error begins with, of rank `{rank}`; `harmless` in which stages there may be none."""

    says: str
    weight: int
    harmless: tuple[str, ...] = ()


WORKER = r"worker {rank} (\(.+?, process \d+\) )?"
FAULTS = {
    "kill": Fault(WORKER + "was killed by SIGKILL", 5),
    "stop": Fault(WORKER + "(gave no sign of life for|has been stopped for)", 4),
    "cut": Fault(WORKER + "(lost its connection|closed its connection|ended with exit code)", 4),
    "drop": Fault(WORKER + "(gave no sign of life for|ended with exit code)", 3),
    "full descriptors": Fault(WORKER + "(failed during .*Too many open files|ended with exit code)", 4, STAGES),
    "full descriptors of the controller": Fault(".*(Too many open files|no descriptors)", 3, STAGES),
    "suspended controller": Fault("nothing", 2, STAGES),
    "suspended job": Fault("nothing", 1, STAGES),
}
"""On one host."""
HOST_FAULTS = {
    "kill": Fault(WORKER + "closed its connection", 4, ("load",)),
    "stop": Fault(WORKER + "gave no sign of life for", 2, ("load",)),
    "cut": Fault(r"worker 1 \(.+?, process \d+\) (gave no sign of life for|closed its connection)", 2, ("load",)),
    "drop": Fault("nothing", 1, STAGES),
}
"""Between hosts: the second one is cut off, or a tenth of what it sends is lost. Who is awaited may come back."""


class Case(NamedTuple):
    """One fault: after so much of a stage (0..1), of the chunk `chunk` at the earliest, at one of so many ranks.

    `whole`: chunks are computed as a whole, as for a reader of pixels; else by parts. `seconds`: how long something is
    suspended.
    """

    number: int
    fault: str
    stage: str
    moment: float
    chunk: int
    rank: int
    ranks: int
    whole: bool
    seconds: float

    def logged_by(self, warnings: Sequence[str]) -> bool:
        """Whether the log says so: of a worker that was lost when the last job had ended, before the next one."""
        says = WORKER.format(rank=self.rank) + "ended or stopped between two jobs"
        return any(re.match(says, warning) for warning in warnings)

    def named_by(self, error: str, faults: Mapping[str, Fault]) -> bool:
        """Whether an error says what has happened, and to whom."""
        return re.match(faults[self.fault].says.format(rank=self.rank), error, re.DOTALL) is not None


def draw(seed: int, number: int, ranks: int, faults: Mapping[str, Fault]) -> Case:
    """The case of this number: the same for the same seed and faults."""
    choose = random.Random(f"{seed} {number}")
    (fault,) = choose.choices(list(faults), [each.weight for each in faults.values()])
    return Case(
        number,
        fault,
        choose.choice(STAGES),
        choose.random(),
        choose.randrange(CHUNKS - 1),
        choose.randrange(ranks),
        ranks,
        choose.random() < 0.7,
        choose.uniform(11, 14),
    )
