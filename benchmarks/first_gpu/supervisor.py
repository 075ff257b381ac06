"""Runs the rows in a process of their own and keeps what that says as it says it: whatever ends either, it is there."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livetalk_core.files import write_durably

from .plan import GPU, MEASURED, Row

ROOT = Path(__file__).resolve().parents[2]
UNTOUCHED, BEGUN = "not begun", "begun"
ERRORS_KEPT = 2000
"""Characters of what a worker said before it died."""


@dataclass
class Record:
    """What has been measured, on the disk after every change."""

    path: Path
    rows: dict[str, dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, rows: Sequence[Row], **about: Any) -> "Record":
        """A record of rows that are not begun."""
        record = cls(path, {row.name: {"status": UNTOUCHED, "values": {}} for row in rows}, about)
        record.save()
        return record

    def save(self) -> None:
        """Replace the file by what is known now."""
        write_durably(self.path, (json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n").encode())

    def note(self, row: str, status: str, seconds: float | None = None, **values: Any) -> None:
        """Change a row's status and add values to it."""
        self.rows[row]["status"] = status
        if seconds is not None:
            self.rows[row]["seconds"] = round(seconds, 1)
        self.rows[row]["values"] |= values
        self.save()


class Worker:
    """The process that measures. It ends with this one."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.first_gpu.worker", json.dumps(settings)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._said: queue.Queue[str | None] = queue.Queue()
        self._errors = ""
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._listen, self._overhear)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)

    def _overhear(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._errors = (self._errors + line)[-ERRORS_KEPT:]

    def measure(self, row: str, seconds: float, seen: Callable[[dict[str, Any]], None]) -> str:
        """Have a row measured; `seen` gets each value. Returns the row's status; a worker that fails must be closed."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # one that died says so by its silence
            self._process.stdin.write(f"{row}\n")
            self._process.stdin.flush()
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._said.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                return f"cut off after {seconds:.0f} s"
            if line is None:
                return f"the process died ({self._process.wait()}): {self._last_words()}"
            message = json.loads(line)
            if "status" in message:
                return message["status"]
            seen(message["values"])

    def _last_words(self) -> str:
        self._threads[1].join(1)
        return (self._errors.strip().splitlines() or ["it said nothing"])[-1]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(1)


def measure(
    rows: Sequence[Row], record: Record, settings: dict[str, Any], limit: float, say: Callable[[str], None] = print
) -> None:
    """All rows in turn, as long as the limit allows; after one that failed the next has a process of its own."""
    until, worker = time.monotonic() + limit, None
    try:
        for row in rows:
            left = until - time.monotonic()
            if left <= 1:
                record.note(row.name, f"not begun: the {limit:.0f} s were over")
                continue
            if row.gpu_only and settings["device"] == "cpu":
                record.note(row.name, GPU)
                continue
            worker = worker or Worker(settings)
            begun = time.monotonic()
            record.note(row.name, BEGUN)

            def seen(values: dict[str, Any], name: str = row.name, begun: float = begun) -> None:
                record.note(name, BEGUN, time.monotonic() - begun, **values)

            status = worker.measure(row.name, min(row.seconds, left), seen)
            record.note(row.name, status, time.monotonic() - begun)
            say(f"{time.monotonic() - begun:6.1f} s  {row.name}: {status}")
            if status != MEASURED and not status.startswith("needs"):
                worker.close()
                worker = None
    finally:
        if worker:
            worker.close()
