"""What the first run on a GPU measures, in order, and how long each row may take. Imports nothing that takes time."""

from typing import NamedTuple

LIMIT = 480
"""Seconds of the whole run."""
GPU, MEASURED = "needs a GPU", "measured"


class Needs(Exception):
    """A row cannot be measured here: what it needs."""


class Row(NamedTuple):
    """One measurement: its name, the most seconds it may take, whether a CPU cannot make it."""

    name: str
    seconds: int
    gpu_only: bool = False


MACHINE, EXACT, LOSSY, ATTENTION, PASSES, TESTS, REFERENCE = (
    "machine", "golden files, float32", "golden files, bfloat16", "attention", "passes", "GPU tests", "reference",
)  # fmt: skip
MODELS = {
    "bfloat16": (False, False, False),
    "bfloat16, compiled": (True, False, False),
    "FP8": (False, True, False),
    "FP8, compiled": (True, True, False),
    "FP8, half of the blocks streamed": (False, True, True),
}
"""Ways to run the model: whether compiled, in FP8, streamed."""
ROWS = (
    Row(MACHINE, 40),
    Row(EXACT, 60),
    Row(LOSSY, 40),
    Row(ATTENTION, 50),
    Row(PASSES, 30, gpu_only=True),
    *(Row(name, 150 if compiled else 75) for name, (compiled, _, _) in MODELS.items()),
    Row(TESTS, 90, gpu_only=True),
    Row(REFERENCE, 90),
)
