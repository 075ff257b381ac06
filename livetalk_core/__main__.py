"""`python -m livetalk_core`, and the command `livetalk`."""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

INTERRUPTED = 130
ALLOCATOR, SETTING = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
"""Memory that PyTorch takes can then be given back page by page. It is read when torch is first imported."""


def start() -> NoReturn:
    """Run the command line, and exit.

    Ctrl-C ends the process at once while nothing is at work that could be left half-done: during the imports, whose
    own handling of it is a traceback or worse, and at the end. A command takes it in hand with `stoppable`.
    """
    signal.signal(signal.SIGINT, _leave)
    _choose_allocator()
    if sys.argv[1:2] == ["worker"]:  # starts in a third of the time
        from .commands.worker import main as work

        sys.exit(work(sys.argv[2:]))
    from .commands.main import main

    leave_at_once(main())


def _choose_allocator() -> None:
    """Memory by the page, where PyTorch has it; not under WSL, where some drivers then refuse the first bytes."""
    if sys.platform == "linux" and "microsoft" not in os.uname().release.lower():
        os.environ.setdefault(ALLOCATOR, SETTING)


def leave_at_once(code: int) -> NoReturn:
    """End the process without taking it apart, which takes PyTorch's thousands of modules a second and more.

    What was registered for the end is done, threads that others wait for are waited for, and output is written out.
    """
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # ends idle pools, then waits, as at any end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # whoever read it has gone, or there is none
            stream.flush()
    os._exit(code)


def _leave(*_: Any) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    start()
