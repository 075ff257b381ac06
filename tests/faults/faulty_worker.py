"""A worker whose runner does what it is told: count, fail, hang, die. Run as a program, like the real one."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist

from livetalk_core.commands.worker import add_options, stay
from livetalk_core.errors import InputError
from livetalk_core.parallel import collectives
from livetalk_core.parallel.worker import place_of, serve

FOR_EVER = 3600


def together() -> None:
    """What a model's step does, in short: something that needs all ranks."""
    collectives.total(torch.ones(1), dist.group.WORLD)


def misbehave(job) -> None:
    """The fault that the fields name, if it is for this rank."""
    if job.fields.get("rank") in (None, dist.get_rank()):
        go_wrong(job.fields.get("fault"))


def go_wrong(fault) -> None:
    """Fail, hang or die."""
    if fault == "raise":
        raise RuntimeError("something broke")
    if fault == "refuse":
        raise InputError("too many masks")
    if fault == "memory":
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")
    if fault == "hang":
        time.sleep(FOR_EVER)
    if fault in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, fault))


class FaultyRunner:
    """`count` reports `steps` numbers, all ranks together, and goes wrong before the step `at`."""

    def __init__(self, setup) -> None:
        misbehave(setup)
        together()

    def count(self, job) -> None:
        for step in range(job.fields["steps"]):
            if step == job.fields.get("at"):
                misbehave(job)
            time.sleep(job.fields.get("seconds", 0))
            together()
            job.report({"step": step}, {"sum": job.tensors["x"].sum()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args())
    stays, again = options.pop("stay"), options.pop("again")
    if stays:
        sys.exit(stay(sys.argv[1:], (sys.executable, __file__)))
    sys.exit(serve(place_of(**options), {"faulty": FaultyRunner}, again))
