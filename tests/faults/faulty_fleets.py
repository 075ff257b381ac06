"""What the tests of faults use: the faulty worker, its job, and the processes that are left when one is over."""

import sys
import time
from pathlib import Path

import av
import torch

from livetalk_core.errors import Cancelled
from livetalk_core.parallel.fleet import Limits

PROGRAM = (sys.executable, str(Path(__file__).with_name("faulty_worker.py")))
# Generous where a loaded machine is merely slow; short where something is to be found out.
LIMITS = Limits(start=900, silence=20, patience=900, loading=900, floor=10, factor=3)


def is_running(process: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(processes, seconds=30) -> list[int]:
    """The processes that still run after a while."""
    until = time.monotonic() + seconds
    while (left := [process for process in processes if is_running(process)]) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def processes_of(fleet) -> list[int]:
    return [member.about["process"] for member in fleet.members]


def count(fleet, steps=3, begun=lambda: None, **fields) -> list[int]:
    """The numbers that a counting job reports; `begun` is called with the first, while all ranks count."""
    numbers = []
    for message in fleet.run("count", {"steps": steps, **fields}, {"x": torch.ones(4)}):
        if message.fields["step"] == 0:
            begun()
        if message.tensors["sum"] == 4:
            numbers.append(message.fields["step"])
    return numbers


def playable(path) -> int:
    """How many frames of a video can be decoded."""
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


class Button:
    """Raises `Cancelled` once it is pressed, as a user's poll does."""

    pressed = False

    def __call__(self):
        if self.pressed:
            raise Cancelled
