"""What is shown while something takes a while: never nothing for longer than a moment."""

import io
import os
import struct
import sys
import threading
from contextlib import redirect_stderr, suppress
from types import SimpleNamespace

import pytest

from livetalk_core.commands import progress
from livetalk_core.commands.generate import watch
from livetalk_core.commands.main import main

PATIENCE = 60
"""Seconds that a loaded machine may take for what takes milliseconds."""


class Shown(io.StringIO):
    """A standard error that says when it was written to."""

    def __init__(self):
        super().__init__()
        self._written = threading.Semaphore(0)

    def write(self, text):
        self._written.release()
        return super().write(text)

    def wait(self, times):
        """Whether it is written to so often from now on."""
        while self._written.acquire(blocking=False):
            pass
        return all(self._written.acquire(timeout=PATIENCE) for _ in range(times))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.01)


def test_a_stage_is_shown_again_and_again():
    with redirect_stderr(Shown()) as shown, progress.show_stage("thinking") as share:
        assert shown.wait(4)
        share(0.42)
        assert shown.wait(4)
    assert "thinking" in shown.getvalue() and "42%" in shown.getvalue()


def test_a_render_is_shown_before_its_first_frame_and_while_it_is_finished():
    def run():
        assert shown.wait(4)
        yield object()
        assert shown.wait(4)

    plan = SimpleNamespace(total_frames=33)
    with redirect_stderr(Shown()) as shown:
        watch._watch(SimpleNamespace(session=SimpleNamespace(plan=plan), run=run))
    assert "0/33" in shown.getvalue()


def test_conversion_is_shown(tmp_path, monkeypatch):
    from livetalk_core.checkpoints import convert

    def converted(*_, progress, **__):
        progress(0.5)
        assert shown.wait(4)
        return "done"

    monkeypatch.setattr(convert, "convert", converted)
    with redirect_stderr(Shown()) as shown:
        assert main(["convert", "a.pth", str(tmp_path / "a.safetensors")]) == 0
    assert "converting 50%" in shown.getvalue()


@pytest.mark.parametrize("columns", [0, 40])
def test_a_terminal_that_tells_no_width_is_written_to(columns, monkeypatch):
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.ticking(total=5, unit="frame") as bar:
            bar.update(5)
    text = b""
    with suppress(OSError), os.fdopen(master, "rb", buffering=0) as reader:  # which fails at the end
        while part := reader.read(4096):
            text += part
    assert b"5/5" in text
