"""The command line, `livetalk COMMAND`. Each command is a file, or a folder, beside this one.

Only the command that was asked for is imported, and what it needs for its work only when it runs.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from .. import __version__
from ..errors import Cancelled, LiveTalkError

COMMANDS = {
    "generate": (".generate.command", "Render a talking video."),
    "live": (".live.command", "Serve a page with a talking face that answers while it is spoken to."),
    "verify": (".verify.command", "Check the models against golden files of the reference."),
    "convert": (".convert", "Convert weights: .pth to safetensors, shards to one file, bfloat16 to scaled FP8."),
    "download": (
        ".download.command",
        "Download a published model: sizes and licences first, then its files, checked and converted.",
    ),
    "info": (".info.command", "Say what a checkpoint holds, what this machine can run, and the memory that it needs."),
    "bench": (".bench.command", "Time each part of the model on this machine."),
    "train": (
        ".train",
        "Train a model: its speech data, its parts, stage 1 (adapt), stage 2 (distill), or one person's LoRA.",
    ),
    "evaluate": (
        ".evaluate",
        "Measure how well a model, or any video, talks: lip sync, identity, liveliness, picture, all of it over time.",
    ),
    "measurer": (
        ".measurer",
        "Say how well the measurer of `evaluate` measures; with --train, make a new one first.",
    ),
    "worker": (
        ".worker",
        "Be one of several processes that render together; started by hand, by torchrun, or by LiveTalk itself.",
    ),
}
"""Where each command's module lies, and what it does: its `run` says the same."""
INTERRUPTED = 130
REMEDIES = {
    "torch": "`pip install torch` (https://pytorch.org/get-started/locally names the build for your GPU)",
    **dict.fromkeys(
        ("accelerate", "matplotlib", "tomli"),
        '`pip install "livetalk[train]"`, in a clone `pip install -r requirements-training.txt`',
    ),
    "skimage": "`pip install scikit-image`, or the face's place by --face LEFT,TOP,WIDTH,HEIGHT",
    "onnxruntime": "`pip install onnxruntime`",
    "pyvirtualcam": "`pip install pyvirtualcam`",
    **dict.fromkeys(("aiohttp", "aiortc"), '`pip install "livetalk[live]"`'),
}
"""How to get a package that not every user needs, or that LiveTalk leaves to the user's choice."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 an error that the message explains, 130 stopped by the user."""
    _print_in_any_encoding()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser(words).parse_args(words)
        return options.run(options)
    except LiveTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        from ..hardware.machine import ran_out_of_memory  # imports torch

        if not ran_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        print(
            f"error: out of memory ({reason}); --fp8, --memory or a smaller --size need less: see `info`",
            file=sys.stderr,
        )
        return 1
    except ModuleNotFoundError as error:
        if error.name not in REMEDIES:
            raise
        print(f"error: {error.name} is missing; needed: {REMEDIES[error.name]}", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        return INTERRUPTED


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """All commands, with the options of the one that `words` begin with."""
    root = argparse.ArgumentParser(prog="livetalk", description="One portrait and any speech in, a talking video out.")
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="command")
    for name, (_, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        if name == next(iter(words), None):
            module = module_of(name)
            command.set_defaults(run=module.run)
            module.add_options(command)
    return root


def module_of(name: str) -> ModuleType:
    """The module of a command: its `add_options` and `run`."""
    return import_module(COMMANDS[name][0], __package__)


def _print_in_any_encoding() -> None:
    """What a narrow output (cp1252, ASCII) cannot show is written as an escape, and never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
