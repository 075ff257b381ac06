"""What the controller makes of what it hears: deadlines that know the work, and no worker that can hold it up."""

import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fake_workers import FakeWorkers

from livetalk_core.errors import Cancelled, WorkerError
from livetalk_core.parallel.crew import LONGEST_TICK, RunningClock
from livetalk_core.parallel.fleet import Fleet, Limits
from livetalk_core.parallel.protocol import Message

LIMITS = Limits(start=10, silence=2, patience=60, loading=60, floor=0.2, factor=3)
UNIT = 0.1
"""Seconds that an operation takes here."""


def work(worker, message):
    """As many operations as the call says, then a report."""
    if operations := message.fields.get("counted"):
        worker.connection.send(Message("expects", message.job, {"work": "step", "operations": operations}))
    time.sleep(message.fields["seconds"])
    worker.connection.send(Message("item", message.job, {"step": 0}))


def fleet_of(script=work, limits=LIMITS, **options):
    sources = []

    def source():
        sources.append(FakeWorkers(script, **options))
        return sources[-1]

    return Fleet("test", source, "none", limits=limits), sources


def test_a_longer_step_with_more_work_is_no_fault():
    """A small picture, then a large one on the same warm workers."""
    fleet, sources = fleet_of()
    with fleet:
        list(fleet.run("denoise", {"seconds": UNIT, "counted": 1}))
        list(fleet.run("denoise", {"seconds": 15 * UNIT, "counted": 15}))
        with pytest.raises(WorkerError, match=r"no progress for \d+ s: worker 0 .* is at a script"):
            list(fleet.run("denoise", {"seconds": 40 * UNIT, "counted": 1}))
    assert len(sources) == 1


def test_what_was_measured_is_forgotten_with_the_workers():
    fleet, _ = fleet_of()
    with fleet:
        list(fleet.run("denoise", {"seconds": 0.01}))
        fleet.close()
        list(fleet.run("denoise", {"seconds": 1}))


def test_a_process_that_has_ended_is_replaced_before_its_connection_is_seen_to_close():
    fleet, sources = fleet_of()
    with fleet:
        list(fleet.run("denoise", {"seconds": 0}))
        sources[0].fate = lambda rank: "was killed by SIGKILL"
        list(fleet.run("denoise", {"seconds": 0}))
        assert len(sources) == 2
        list(fleet.run("denoise", {"seconds": 0}))
    assert len(sources) == 2


def test_while_nobody_waits_for_another_rank_none_is_lost():
    fleet, _ = fleet_of(waits=False)
    with fleet:
        list(fleet.run("denoise", {"seconds": 0.01}))
        list(fleet.run("denoise", {"seconds": 1}))


def test_exchanges_between_ranks_are_progress():
    def exchange(worker, message):
        for _ in range(int(message.fields["seconds"] / UNIT)):
            time.sleep(UNIT)
            worker.exchanges += 1

    fleet, _ = fleet_of(exchange)
    with fleet:
        list(fleet.run("denoise", {"seconds": UNIT}))
        list(fleet.run("denoise", {"seconds": 20 * UNIT}))


def test_one_that_ended_its_part_early_is_named():
    def alone(worker, message):
        if worker.rank == 1 and message.fields["seconds"]:
            time.sleep(4)

    fleet, _ = fleet_of(alone, ranks=2)
    with fleet:
        list(fleet.run("denoise", {"seconds": 0}))
        with pytest.raises(WorkerError, match=r"worker 0 \(.*\) ended its part before the others, which wait for it"):
            list(fleet.run("denoise", {"seconds": 1}))


def test_a_stopped_worker_that_is_sent_much_holds_up_neither_the_verdict_nor_cancel():
    def stop(worker, message):
        worker.beating = False
        time.sleep(4)

    fleet, _ = fleet_of(stop)
    much = {"x": torch.zeros(2**24)}
    with fleet:
        fleet.start()
        threading.Thread(target=lambda: fleet._crew.send(Message("call", 99, {"seconds": 0}))).start()
        time.sleep(0.2)
        begin, asked = time.monotonic(), []
        fleet.poll = lambda: asked.append(time.monotonic())
        with pytest.raises(WorkerError, match="gave no sign of life for 2 s"):
            list(fleet.run("denoise", {"seconds": 0}, much))
        assert time.monotonic() - begin < 6
        assert max(later - earlier for earlier, later in pairwise(asked)) < 1


def test_what_cannot_be_sent_is_an_error_and_not_a_wait_for_ever():
    fleet, _ = fleet_of()
    found = []

    def run():
        try:
            list(fleet.run("denoise", {"seconds": 0, "thing": object()}))
        except TypeError as error:
            found.append(error)
        list(fleet.run("denoise", {"seconds": 0}))
        found.append("next")

    with fleet:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10)
        assert len(found) == 2 and "not JSON serializable" in str(found[0])


def test_time_in_which_the_process_was_stopped_does_not_count():
    moment = [100.0]
    clock = RunningClock(lambda: moment[0])
    begin = clock.now()
    for passed in (0.5, 45.0, 0.5):
        moment[0] += passed
        clock.now()
    assert clock.now() - begin == 1 + LONGEST_TICK
    clock.close()


STOPPED = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from test_crew import fleet_of
from livetalk_core.parallel.fleet import Limits

fleet, _ = fleet_of(limits=Limits(start=10, silence=3, patience=60, floor=3, factor=3))
with fleet:
    list(fleet.run("denoise", {{"seconds": 0.1}}))
    print("now", flush=True)
    list(fleet.run("denoise", {{"seconds": 2}}))
print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process with a signal")
def test_a_suspended_job_goes_on():
    here = Path(__file__).parent
    source = STOPPED.format(here=str(here), root=str(here.parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "now\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    process.send_signal(signal.SIGCONT)
    out, errors = process.communicate(timeout=60)
    assert out == "done\n", errors


def test_memory_is_given_back_before_workers_ask_for_it(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("given back"))

    def source():
        order.append("asked")
        raise Cancelled

    with pytest.raises(Cancelled):
        Fleet("test", source, "none").start()
    assert order == ["given back", "asked"]


@pytest.mark.parametrize(
    ("hosts", "device", "message"),
    [
        (("one", "two"), "cpu", r"one by \{'GLOO_SOCKET_IFNAME': 'eth7'\}, two by .*ip_local_port_range"),
        (("one", "one"), "cuda:0", ".*NCCL_P2P_DISABLE=1"),
    ],
)
def test_ranks_that_do_not_reach_each_other_are_told_of_within_a_minute(hosts, device, message):
    def about(worker):
        return {"host": hosts[worker.rank], "device": device, "networks": {"GLOO_SOCKET_IFNAME": "eth7"}}

    fleet, _ = fleet_of(ranks=2, about=about, meets=True, limits=Limits(start=10, meeting=1, loading=60))
    with pytest.raises(WorkerError, match=f"workers have not reached each other in 1 s: {message}"):
        fleet.start()
