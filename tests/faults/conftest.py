"""Fleets of faulty workers, and what they render."""

import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from livetalk_core.commands.prepare import Settings
from livetalk_core.parallel.fleet import Fleet
from livetalk_core.parallel.launch import LocalWorkers
from livetalk_core.parallel.meeting import Meeting

sys.path.insert(0, str(Path(__file__).parent))  # the tests import the helpers by name

PORTRAIT = Path(__file__).resolve().parents[2] / "demo" / "portrait.png"


@pytest.fixture
def faulty():
    """`faulty(ranks, **setup)` is a fleet; whatever it has started is gone afterwards."""
    from faulty_fleets import LIMITS, PROGRAM, processes_of, wait_until_gone

    fleets, seen = [], set()

    def make(ranks=2, poll=lambda: None, **setup):
        fleet = Fleet("test", lambda: LocalWorkers(["cpu"] * ranks, PROGRAM), "faulty", setup, limits=LIMITS, poll=poll)
        start = fleet.start

        def start_and_note():
            start()
            seen.update(processes_of(fleet))

        fleet.start = start_and_note
        fleets.append(fleet)
        return fleet

    Meeting("127.0.0.1").close()  # the first one in a process opens a pipe for all that follow
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield make
    for fleet in fleets:
        fleet.close()
    assert wait_until_gone(seen) == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.fixture
def settings(tmp_path):
    """`settings(name, fleet)`: 2 s of sound, two chunks, in the smallest picture."""
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(32_000) * 0.1) * 9000).astype("<i2").tobytes())

    def make(name, fleet=None, **others):
        output = tmp_path / f"{name}.mp4"
        return Settings(PORTRAIT, tmp_path / "speech.wav", output, size=(64, 64), steps=2, fleet=fleet, **others)

    return make
