"""What a user sees while something takes a while, before there are frames to count."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

PATIENCE_SECONDS = 0.5
"""What is over within this time is not shown."""
TICK_SECONDS = 1.0


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
    with tqdm(leave=False, dynamic_ncols=True, bar_format="{desc}{elapsed}", desc=name) as bar:
        while True:
            bar.set_description_str(f"{name} {done[0]:.0%}, " if done[0] else f"{name}, ")
            if over.wait(TICK_SECONDS):
                return
