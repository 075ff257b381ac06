"""Work that goes on beside the model: on one thread, in order, and never far behind."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class SideThread:
    """Runs calls one after another on a thread of its own, at most `depth` of them begun or waiting.

    What a call raises is raised by the next `submit` or `drain`; the calls behind it are then not to be trusted.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()

    def submit(self, call: Callable[[], Any]) -> None:
        """Have `call` run behind the others; waits while there are `depth` of them."""
        while len(self._waiting) >= self.depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(call))

    def drain(self) -> None:
        """Wait until everything has run."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Let the call at work end, drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)
