"""Workers do not outlive the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_fleets import wait_until_gone

PARENT = """
import sys
from threading import Thread
sys.path[:0] = [{here!r}, {root!r}]
from faulty_fleets import LIMITS, PROGRAM, count, processes_of
from livetalk_core.parallel.fleet import Fleet
from livetalk_core.parallel.launch import LocalWorkers

fleet = Fleet("test", lambda: LocalWorkers(["cpu"] * 2, PROGRAM), "faulty", limits=LIMITS)
starter = Thread(target=fleet.start)  # Linux ends processes with the thread that made them: not with this one
starter.start()
starter.join()
count(fleet)
print(*processes_of(fleet), flush=True)
count(fleet, steps=100_000, seconds=0.1)
"""


@pytest.fixture
def parent(tmp_path):
    """A process with two workers at work; gives it and their process numbers."""
    here = Path(__file__).parent
    source = PARENT.format(here=str(here), root=str(here.parents[1]))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    yield process, [int(number) for number in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(parent, end, tmp_path):
    process, workers = parent
    assert len(workers) == 2
    process.send_signal(end)
    process.wait()
    assert wait_until_gone(workers) == [] and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with its parent")
def test_a_stopped_worker_ends_with_its_parent(parent):
    process, workers = parent
    os.kill(workers[1], signal.SIGSTOP)
    process.kill()
    process.wait()
    assert wait_until_gone(workers) == []
