"""The harness notices what it is there to notice."""

import os
import sys
import time
from pathlib import Path

import pytest

from livetalk_core.errors import InputError
from tests.fuzz import harness


def _refuses(seed: int, folder: Path) -> None:
    raise InputError("short" if seed else "long" * 1000)


def _fills(seed: int, folder: Path) -> None:
    assert len(bytes(2**30)) and len(b"x" * 2**30) and folder.is_dir()


def _waits(seed: int, folder: Path) -> None:
    while time.process_time() < 20:
        pass


def _memory_of_a_fork() -> int:
    """Bytes of what this process has, which other tests have filled; without the files that it maps."""
    process = os.fork()
    if process == 0:
        os._exit(0)
    return os.wait4(process, 0)[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize(
    ("case", "seed", "what"),
    [
        (lambda seed, folder: None, 0, ""),
        (_refuses, 1, ""),
        (_refuses, 0, "a message of"),
        (lambda seed, folder: 1 // seed, 0, "ZeroDivisionError"),
        (lambda seed, folder: os.abort(), 0, "ended by signal 6"),
        (_fills, 0, "took"),
        (_waits, 0, "ended by signal"),
    ],
)
def test_outcomes(monkeypatch, case, seed, what):
    monkeypatch.setattr(harness, "MOST_SECONDS", 5)
    monkeypatch.setattr(harness, "LONGEST_MESSAGE", 100)
    monkeypatch.setattr(harness, "MOST_MEMORY", _memory_of_a_fork() + 700 * 2**20)
    outcome = harness.one(case, seed)
    assert what in outcome and bool(what) == bool(outcome), outcome
