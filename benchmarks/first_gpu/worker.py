"""The process that measures: reads the names of rows, one a line, and writes each value as a line of JSON."""

import gc
import importlib.util
import json
import logging
import os
import queue
import sys
import threading
from contextlib import ExitStack
from typing import Any, TextIO

from livetalk_core.commands.bench.stand_ins import standing_in

from .plan import MEASURED, Needs

UNNEEDED = ("av", "ftfy", "pyloudnorm")
"""Packages of which hardly a row needs more than that their import succeeds: a machine may have only PyTorch's."""


def main() -> None:
    """Serve until the supervisor closes the pipe or dies; a row at work ends with it."""
    out, sys.stdout = sys.stdout, sys.stderr  # whatever prints must not end up among the values
    settings = json.loads(sys.argv[1])
    logging.basicConfig(stream=sys.stderr)
    asked = _asked()
    missing = [name for name in UNNEEDED if importlib.util.find_spec(name) is None]
    with ExitStack() as stack:
        if missing:
            stack.enter_context(standing_in(missing))
        if "av" in missing:
            # The core asks for it while it is imported.
            vars(importlib.import_module("av"))["codecs_available"] = {"libx264"}
        from . import rows

    measuring = rows.Measuring(**settings)
    while (name := asked.get()) is not None:
        _send(out, {"status": _measured(out, measuring, name)})


def _asked() -> "queue.Queue[str | None]":
    """The names as they come, read on a thread that ends the process when there are no more to come."""
    names: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            names.put(line.strip())
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return names


def _measured(out: TextIO, measuring: Any, name: str) -> str:
    """Send a row's values as they come; its status."""
    try:
        for values in measuring.row(name):
            _send(out, {"values": values})
    except Needs as reason:
        return f"needs {reason}"
    except Exception as error:  # whatever a machine that nobody has seen raises is what this is to tell
        return f"failed: {type(error).__name__}: {error}".splitlines()[0]
    finally:
        gc.collect()
    return MEASURED


def _send(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
