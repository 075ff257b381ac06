"""Fleets of faulty workers."""

import sys
from pathlib import Path

import pytest

from livetalk_core.parallel.fleet import Fleet
from livetalk_core.parallel.launch import LocalWorkers

sys.path.insert(0, str(Path(__file__).parent))  # the tests import the helpers by name


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

    before = len(list(Path("/proc/self/fd").iterdir()))
    yield make
    for fleet in fleets:
        fleet.close()
    assert wait_until_gone(seen) == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
