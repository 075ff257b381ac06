"""What a user sees while something takes a while, before there are frames to count."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

PATIENCE_SECONDS = 0.5
"""What is over within this time is not shown."""
TICK_SECONDS = 1.0
USUAL_SIZE: dict[str, Any] = {"ncols": 80, "nrows": 24}


def bar_of(**options: Any) -> "tqdm[Any]":
    """A bar as wide as the terminal; of a usual one where it tells no size, and tqdm would show nothing."""
    try:
        told = all(os.get_terminal_size(sys.stderr.fileno()))
    except (OSError, ValueError):  # no terminal: tqdm knows what to do
        told = True
    size: dict[str, Any] = {"dynamic_ncols": True} if told else USUAL_SIZE
    return tqdm(**size, **options)


@contextmanager
def ticking(**options: Any) -> Iterator["tqdm[Any]"]:
    """A bar that is shown anew each second while nothing is added to it: a first chunk may take minutes."""
    over = threading.Event()
    with bar_of(**options) as bar:
        ticker = threading.Thread(target=_tick, args=(bar, over), name="progress", daemon=True)
        ticker.start()
        try:
            yield bar
        finally:
            over.set()
            ticker.join()


def _tick(bar: "tqdm[Any]", over: threading.Event) -> None:
    while not over.wait(TICK_SECONDS):
        bar.refresh()


@contextmanager
def show_stage(name: str) -> Iterator[Callable[[float], None]]:
    """Show `name` and the time that it takes, on standard error, until it is over.

    What is given may be called with the share that is done, 0 to 1, from any thread.
    """
    done: list[float] = [0.0]
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(name, done, over), name="progress", daemon=True)
    watcher.start()
    try:
        yield lambda share: done.__setitem__(0, share)
    finally:
        over.set()
        watcher.join()


def _watch(name: str, done: list[float], over: threading.Event) -> None:
    if over.wait(PATIENCE_SECONDS):
        return
    with bar_of(leave=False, bar_format="{desc}{elapsed}", desc=name) as bar:
        while True:
            bar.set_description_str(f"{name} {done[0]:.0%}, " if done[0] else f"{name}, ")
            if over.wait(TICK_SECONDS):
                return
