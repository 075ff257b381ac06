"""The command `worker`: its options, and what a worker can run.

Runners import what they need when they are made: many workers start at once, on the cores of one machine.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import SECRET_VARIABLE
from ..errors import LiveTalkError

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


RUNNERS = {"engine": engine, "verify": verify}


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--connect", required=True, metavar="HOST:PORT", help="of the controller")
    command.add_argument(
        "--secret-file", help=f"the fleet's secret ({SECRET_VARIABLE} in the environment does, too); - reads it from "
        "standard input and ends the worker with it",
    )  # fmt: skip
    command.add_argument("--device", help="cpu, cuda:1 ... (default: the GPU of torchrun's local rank, or the CPU)")
    command.add_argument("--rank", type=int, help="this worker's number (default: torchrun's)")
    command.add_argument("--ranks", type=int, help="how many workers there are (default: torchrun's)")
    command.add_argument("--plain", action="store_true", help="no TLS: for a controller of this host, which says so")
    command.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's own choice)")


def run(options: argparse.Namespace) -> int:
    """Be one of several processes that render together; started by torchrun, or by LiveTalk itself."""
    from ..parallel.worker import place_of, serve

    settings = {name: value for name, value in vars(options).items() if name != "run"}
    return serve(place_of(**settings), RUNNERS)


def main(arguments: Sequence[str]) -> int:
    """The command on its own, without what the other commands import; the exit code."""
    parser = argparse.ArgumentParser(prog="livetalk worker", description=run.__doc__)
    add_options(parser)
    try:
        return run(parser.parse_args(arguments))
    except LiveTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
