"""Devices of different memory: used with a warning, or refused by name where one cannot hold its share."""

import sys
from pathlib import Path

import pytest
import torch
from faulty_fleets import LIMITS, processes_of, wait_until_gone

from livetalk_core.errors import WorkerError
from livetalk_core.parallel.fleet import Fleet
from livetalk_core.parallel.launch import LocalWorkers
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup

PROGRAM = (sys.executable, str(Path(__file__).with_name("tight_worker.py")))
BETWEEN = 0.014
"""GiB that hold a half of the embedded model's weights, and not the whole."""
LITTLE = 0.001


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(0.5, 1, sharded=True)`: two workers on pretended GPUs with so many GiB free."""
    fleets, processes = [], []

    def make(*free, sharded=False):
        monkeypatch.setenv("LIVETALK_TEST_FREE", " ".join(map(str, free)))
        setup = engine_setup("nano", torch.float32, sharded)
        fleets.append(Fleet("test", lambda: LocalWorkers(["cpu"] * 2, PROGRAM), "engine", setup, limits=LIMITS))
        return fleets[-1]

    yield make
    for fleet in fleets:
        processes += processes_of(fleet)
        fleet.close()
    assert wait_until_gone(processes) == []


@pytest.mark.parametrize(("free", "sharded"), [((24, 12), False), ((BETWEEN, 24), True)])
def test_unequal_devices_are_used_with_a_warning(gpus, caplog, free, sharded):
    fleet = gpus(*free, sharded=sharded)
    assert len(list(FleetEngine(fleet).decode(torch.zeros(16, 2, 4, 4)))) == 2
    least = free.index(min(free))
    assert f"worker {least} (cuda:{least}, process {processes_of(fleet)[least]}) has {min(free):.1f} GiB" in caplog.text
    assert "others up to 24.0: all do equal work, so the smallest one sets the limit" in caplog.text


def test_nearly_equal_devices_are_not_worth_a_word(gpus, caplog):
    gpus(24, 22).start()
    assert "GiB free" not in caplog.text


@pytest.mark.parametrize(
    ("free", "sharded", "advice"),
    [
        (BETWEEN, False, r"shard the weights, or stream some \(--memory\), or leave it out"),
        (LITTLE, True, "free memory, or leave this device out"),
    ],
)
def test_one_that_cannot_hold_its_share_is_refused_by_name(gpus, free, sharded, advice):
    fleet = gpus(24, free, sharded=sharded)
    with pytest.raises(WorkerError, match=rf"worker 1 \(cuda:1, .*failed during set-up: cuda:1 has .*: {advice}"):
        fleet.start()
    assert not fleet.members
