"""`python -m livetalk_core`, and the command `livetalk`."""

import atexit
import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

INTERRUPTED = 130
ALLOCATOR, SETTING = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
"""Memory that PyTorch takes can then be given back page by page. It is read when torch is first imported."""
KEPT_BLOCKS, KEPT_FREE, ARENAS = (-3, 256 * 2**20), (-1, 512 * 2**20), (-8, 1)
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_ARENA_MAX, and what each is set to."""


def start() -> NoReturn:
    """Run the command line, and exit.

    Ctrl-C ends the process at once while nothing is at work that could be left half-done: during the imports, whose
    own handling of it is a traceback or worse, and at the end. A command takes it in hand with `stoppable`.
    """
    signal.signal(signal.SIGINT, _leave)
    _choose_allocator()
    _keep_freed_memory()
    if sys.argv[1:2] == ["worker"]:  # starts in a third of the time
        from .commands.worker import main as work

        sys.exit(work(sys.argv[2:]))
    from .commands.main import main

    leave_at_once(main())


def _choose_allocator() -> None:
    """Memory by the page, where PyTorch has it; not under WSL, where some drivers then refuse the first bytes."""
    if sys.platform == "linux" and "microsoft" not in os.uname().release.lower():
        os.environ.setdefault(ALLOCATOR, SETTING)


def _keep_freed_memory() -> None:
    """Have the C library keep for the next chunk what this one's tensors leave, on CPUs an eighth of the VAE's work.

    glibc returns blocks above 32 MiB to the system as soon as they are free, and gets each anew, page by page. Here it
    keeps blocks up to 256 MiB, and at most 512 MiB that nobody uses; threads find them too. What the user has set by
    glibc's own variables stays; other C libraries have none of it.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (KEPT_BLOCKS, KEPT_FREE, ARENAS):
            mallopt(option, value)


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
