"""The command `worker`: its options, and what a worker can run.

Runners import what they need when they are made: many workers start at once, on the cores of one machine.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from ..config import SECRET_VARIABLE
from ..errors import InputError, LiveTalkError
from .options import count, positive

if TYPE_CHECKING:
    from ..parallel.worker import Job


def engine(job: "Job") -> Any:
    """An engine on this rank's share of the set-up's model."""
    from ..streaming.engine_runner import EngineRunner

    return EngineRunner.of(job)


def verify(_: "Job") -> Any:
    """The golden checks."""
    from .verify.golden import VerifyRunner

    return VerifyRunner()


def bench(job: "Job") -> Any:
    """A preset's engine of random weights."""
    from .bench.runner import BenchRunner

    return BenchRunner.of(job)


NEVER = 2
"""The exit code of a worker whose options cannot work, however often they are tried."""
PAUSE = 1
"""Seconds between the end of a worker and the next one."""
LOOK_SECONDS, STOPPED_LOOKS = 1, 15
"""How often a worker is looked at, and how many times in a row one may be stopped."""
RUNNERS = {"engine": engine, "verify": verify, "bench": bench}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--connect", required=True, metavar="HOST:PORT", help="of the controller")
    command.add_argument(
        "--secret-file", help=f"the fleet's secret ({SECRET_VARIABLE} in the environment does, too); - reads it from "
        "standard input and ends the worker with it",
    )  # fmt: skip
    command.add_argument(
        "--stay", action="store_true",
        help="serve one render after the other with its weights kept, started anew after a failure, until Ctrl-C",
    )  # fmt: skip
    command.add_argument("--again", action="store_true", help=argparse.SUPPRESS)  # what --stay starts
    command.add_argument("--device", help="cpu, cuda:1 ... (default: the GPU of torchrun's local rank, or the CPU)")
    command.add_argument(
        "--rank", type=count, help="this worker's number (default: torchrun's, or what the controller gives)"
    )
    command.add_argument("--ranks", type=positive, help="how many workers there are (default: torchrun's)")
    command.add_argument("--plain", action="store_true", help="no TLS: for a controller of this host, which says so")
    command.add_argument("--threads", type=positive, help="CPU threads (default: PyTorch's own choice)")


def run(options: argparse.Namespace) -> int:
    """Be one of several processes that render together; started by hand, by torchrun, or by LiveTalk itself."""
    if options.stay:
        return stay(sys.argv[1:])
    from ..parallel.worker import place_of, serve

    settings = {name: value for name, value in vars(options).items() if name not in ("run", "stay", "again")}
    return serve(place_of(**settings), RUNNERS, options.again)


def stay(arguments: Sequence[str], program: Sequence[str] = (sys.executable, "-m", "livetalk_core")) -> int:
    """Start the worker that `arguments` describe, again whenever it has ended, until Ctrl-C; the exit code.

    One process serves render after render, and keeps its weights. After a failure, or when none has come for long, it
    is a new one: what is left of the old one may wait for other ranks for ever. One whose options cannot work is the
    last.
    """
    command = [*program, *(word for word in arguments if word != "--stay"), "--again"]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    process: subprocess.Popen[bytes] | None = None
    try:
        while True:
            process = subprocess.Popen(command)
            outlast(process)
            if process.returncode == NEVER:
                return NEVER
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return 0
    finally:
        if process is not None:
            process.kill()
            process.wait()


def outlast(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a worker; one that stays stopped is ended: its controller, on another host, could not.

    Looks are counted, not seconds: this process may have been stopped with it.
    """
    looks = 0
    while looks <= STOPPED_LOOKS:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
            return
        with suppress(psutil.NoSuchProcess):
            looks = looks + 1 if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED else 0
    process.kill()
    process.wait()


def main(arguments: Sequence[str]) -> int:
    """The command on its own, without what the other commands import; the exit code."""
    parser = argparse.ArgumentParser(prog="livetalk worker", description=run.__doc__)
    add_options(parser)
    try:
        return run(parser.parse_args(arguments))
    except LiveTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return NEVER if isinstance(error, InputError) else 1
