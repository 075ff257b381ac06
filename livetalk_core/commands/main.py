"""The command line: `python -m livetalk_core COMMAND`. Each command is a file, or a folder, beside this one."""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import Cancelled, LiveTalkError
from . import convert, evaluate, generate, info, measurer, train, worker
from .bench import command as bench
from .verify import command as verify

COMMANDS = {
    "generate": generate,
    "verify": verify,
    "convert": convert,
    "info": info,
    "bench": bench,
    "train": train,
    "evaluate": evaluate,
    "measurer": measurer,
    "worker": worker,
}
INTERRUPTED = 130
TRAINING_PACKAGES = ("accelerate", "matplotlib", "tomli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 an error that the message explains, 130 stopped by the user."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except LiveTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        print(f"error: {error.name} is missing; needed: `pip install -r requirements-training.txt`", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="livetalk_core", description="One portrait and any speech in, a talking video out."
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.run.__doc__, description=module.run.__doc__)
        command.set_defaults(run=module.run)
        module.add_options(command)
    return root
