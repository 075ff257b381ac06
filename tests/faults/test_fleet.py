"""Whatever goes wrong with a worker: the error names it within seconds, no process is left, the next job succeeds."""

import os
import signal
import socket
import threading
import time
from contextlib import closing

import pytest
import torch
from faulty_fleets import LIMITS, Button, count, processes_of, wait_until_gone

from livetalk_core.errors import Cancelled, InputError, WorkerError
from livetalk_core.parallel import launch


def test_workers_stay_warm_and_end_with_the_fleet(faulty):
    fleet = faulty(2)
    assert count(fleet) == [0, 1, 2]
    processes = processes_of(fleet)
    assert count(fleet) == [0, 1, 2] and processes_of(fleet) == processes
    fleet.close()
    assert wait_until_gone(processes) == []
    assert count(fleet) == [0, 1, 2] and processes_of(fleet) != processes


@pytest.mark.parametrize(
    ("fault", "rank", "message"),
    [
        ("SIGKILL", 0, r"worker 0 \(cpu, process \d+\) was killed by SIGKILL.*during count"),
        ("SIGKILL", 1, r"worker 1 \(cpu, process \d+\) was killed by SIGKILL.*during count"),
        ("SIGSTOP", 1, r"worker 1 \(cpu, process \d+\) gave no sign of life for 20 s"),
        ("raise", 1, r"worker 1 \(cpu, process \d+\) failed during count: RuntimeError: something broke"),
        ("refuse", 1, r"worker 1 \(cpu, process \d+\) failed during count: too many masks"),
        ("memory", 0, r"worker 0 .*OutOfMemoryError: tried to allocate 20 GiB; it ran out of memory"),
    ],
)
def test_a_rank_that_goes_wrong_alone_is_named(faulty, fault, rank, message):
    fleet = faulty(2)
    fleet.start()
    processes = processes_of(fleet)
    with pytest.raises(WorkerError, match=message) as found:
        count(fleet, fault=fault, rank=rank, at=1)
    assert "the next job starts new ones" in str(found.value)
    assert wait_until_gone(processes) == []
    assert count(fleet) == [0, 1, 2]


def test_a_wedged_rank_is_named_by_a_deadline_from_measured_times(faulty):
    fleet = faulty(2)
    count(fleet)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"no progress for \d+ s: worker 1 \(.*\) is at .*, and others wait for it"):
        count(fleet, fault="hang", rank=1, at=1)
    assert time.monotonic() - start < 60
    assert count(fleet) == [0, 1, 2]


def test_an_error_of_all_ranks_keeps_them(faulty, capfd):
    fleet = faulty(2)
    fleet.start()
    processes = processes_of(fleet)
    with pytest.raises(InputError, match=r"^too many masks$"):
        count(fleet, fault="refuse", at=1)
    assert count(fleet) == [0, 1, 2] and processes_of(fleet) == processes
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [("refuse", InputError, "^too many masks$"), ("SIGKILL", WorkerError, "was killed by SIGKILL.* during set-up")],
)
def test_a_set_up_that_fails_leaves_nothing(faulty, fault, error, message):
    fleet = faulty(2, fault=fault)
    with pytest.raises(error, match=message):
        fleet.start()
    assert not fleet.members


@pytest.mark.parametrize(("rank", "sent"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_one_that_dies_or_stops_between_jobs_is_replaced(faulty, rank, sent):
    fleet = faulty(2)
    count(fleet)
    processes = processes_of(fleet)
    os.kill(processes[rank], sent)
    while not fleet._crew.gone(LIMITS.silence):
        time.sleep(0.05)
    assert count(fleet) == [0, 1, 2] and not set(processes_of(fleet)) & set(processes)


def test_closing_a_job_stops_it_at_the_next_step_on_all_ranks(faulty):
    fleet = faulty(2)
    with closing(fleet.run("count", {"steps": 1000, "seconds": 0.2}, {"x": torch.ones(4)})) as messages:
        next(messages)
        processes, start = processes_of(fleet), time.monotonic()
    assert time.monotonic() - start < 30
    assert count(fleet) == [0, 1, 2] and processes_of(fleet) == processes


def test_the_user_can_stop_a_step_that_takes_long(faulty):
    button = Button()
    fleet = faulty(2, poll=button)
    count(fleet)
    processes = processes_of(fleet)
    threading.Timer(1, lambda: setattr(button, "pressed", True)).start()
    with pytest.raises(Cancelled):
        count(fleet, steps=1000, seconds=0.5)
    button.pressed = False
    assert count(fleet) == [0, 1, 2] and processes_of(fleet) == processes


def test_the_user_can_stop_while_workers_load(faulty):
    button = Button()
    fleet = faulty(2, poll=button, fault="hang")
    threading.Timer(5, lambda: setattr(button, "pressed", True)).start()
    with pytest.raises(Cancelled):
        fleet.start()
    assert not fleet.members


def test_the_message_about_a_start_that_fails_names_the_worker(faulty, monkeypatch):
    fleet = faulty(2)
    source = fleet._source()
    source._program = (*source._program, "--no-such-option")
    fleet._source = lambda: source
    with pytest.raises(WorkerError, match=r"worker [01] ended with exit code 2"):
        fleet.start()


def test_a_worker_that_is_stopped_before_it_connects_is_named(faulty, monkeypatch):
    monkeypatch.setattr(launch, "STOPPED_SECONDS", 1)
    fleet = faulty(2)
    source = fleet._source()
    stopped = []

    def stop_one():
        if len(source._processes) == 2 and not stopped:
            os.kill(source._processes[1].pid, signal.SIGSTOP)
            stopped.append(source._processes[1].pid)

    fleet._source, fleet.poll = lambda: source, stop_one
    with pytest.raises(WorkerError, match=r"^worker 1 has been stopped for 1 s, before it connected$"):
        fleet.start()
    assert wait_until_gone(stopped) == []


def test_a_worker_whose_connection_is_cut_is_named(faulty):
    fleet = faulty(2)
    fleet.start()
    threading.Timer(1, lambda: fleet.members[1].connection._socket.shutdown(socket.SHUT_RDWR)).start()
    with pytest.raises(WorkerError, match=r"^worker 1 \(cpu, process \d+\) lost its connection, during count"):
        count(fleet, steps=1000, seconds=0.1)
    assert count(fleet) == [0, 1, 2]


def test_the_stage_is_that_of_the_work_at_hand(faulty):
    fleet = faulty(1)
    assert fleet.stage is None
    with closing(fleet.run("count", {"steps": 2}, {"x": torch.ones(4)})) as messages:
        next(messages)
        assert fleet.stage == "count"
    assert fleet.stage is None
