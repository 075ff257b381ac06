"""Renders that are killed at seeded moments and taken up again, each until it is whole.

    python tests/faults/killed_renders.py --kills 300 --seed 0

A moment is before or after a call that touches the disk (those of the finish and its last syncs are among them), a
frame, a packet of the last copy, or any time at all. Processes are forked from one that has imported and loaded
everything, so that a kill costs a fraction of a second.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from livetalk_core.commands.generate.watch import is_finished  # noqa: E402
from livetalk_core.media.audio import TensorAudio  # noqa: E402
from livetalk_core.media.place import OutputPlace  # noqa: E402
from livetalk_core.streaming.render import Render  # noqa: E402

CALLS = ("open", "close", "fsync", "link", "rename", "replace", "unlink")
SHARE_BY_TIME = 0.2
USERS = (
    "talk.finishing.mp4", "talk.mp4.tmp", "talk.partial.json.tmp", "talk.partial.safetensors.tmp", "livetalk.tmp",
    "other.partial.mp4", "input.partial.mp4", "talk.partial.mp4.partial",
)  # fmt: skip
"""Files of names that are nearly those of a render."""


def the_render(output: Path) -> Render:
    """Three chunks of small random models, with sound."""
    spec = importlib.util.spec_from_file_location("small", ROOT / "tests" / "streaming" / "conftest.py")
    assert spec and spec.loader
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    sound = TensorAudio(torch.sin(torch.arange(small.TOTAL * 640) * 0.2)[None] * 0.3, 16_000)
    return Render(small.make_session(), output, 3, sound, {"portrait": "a"})


class Moments:
    """Counts what happens in this process, and kills it at one of these moments."""

    def __init__(self, kill_at: int) -> None:
        self.count, self._kill_at = 0, kill_at

    def pass_one(self) -> None:
        """A moment."""
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, name: str) -> None:
        """Let every call of a function of `os` have a moment before and after it."""
        call = getattr(os, name)

        def watched(*arguments, **options):
            self.pass_one()
            try:
                return call(*arguments, **options)
            finally:
                self.pass_one()

        setattr(os, name, watched)


def run(render: Render, kill_at: int = 0, report: int | None = None) -> None:
    """Render, or go on, in this process; it ends with it."""
    moments = Moments(kill_at)
    for name in CALLS:
        moments.watch(name)
    code = 1
    try:
        if not (render.resume and is_finished(OutputPlace(render.output), render.overwrite)):
            for _ in replace(render, on_packet=moments.pass_one).run():
                moments.pass_one()
        code = 0
    except BaseException:
        traceback.print_exc()
    if report is not None:
        os.write(report, json.dumps(moments.count).encode())
    os._exit(code)


def forked(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run `work` in a process of its own, killed after so many seconds; how it ended, a negative signal."""
    process = os.fork()
    if process == 0:
        work()
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def count_moments(render: Render) -> tuple[int, float]:
    """How many moments a whole render has, and how many seconds it takes."""
    reader, writer = os.pipe()
    started = time.monotonic()
    assert forked(lambda: run(render, report=writer)) == 0
    return json.loads(os.read(reader, 100)), time.monotonic() - started


def main() -> int:
    """Kill, resume, compare; a line of figures."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--kills", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    choose, kills, renders, finished = random.Random(given.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = the_render(folder / "whole.mp4")
        moments, seconds = count_moments(first)
        whole = first.output.read_bytes()
        first.output.unlink()
        for user in USERS:
            (folder / user).write_bytes(user.encode())
        while kills < given.kills:
            renders += 1
            render = replace(first, output=folder / "talk.mp4")
            for _ in range(choose.randint(1, 3)):
                if choose.random() < SHARE_BY_TIME:
                    code = forked(lambda render=render: run(render), choose.random() * seconds)
                else:
                    at = choose.randint(1, moments)
                    code = forked(lambda render=render, at=at: run(render, at))
                assert code in (0, -signal.SIGKILL), code
                kills += code != 0
                finished += code != 0 and render.output.exists()
                render = replace(render, resume=True)
            assert forked(lambda render=render: run(render)) == 0
            assert render.output.read_bytes() == whole, "not the bytes of an uninterrupted render"
            left = {path.name for path in folder.iterdir()} ^ {*USERS, "talk.mp4"}
            assert not left, f"too much or too little: {left}"
            assert all((folder / user).read_bytes() == user.encode() for user in USERS)
            render.output.unlink()
    print(  # noqa: T201 - a command
        f"{kills} kills in {renders} renders of {moments} moments ({finished} with the video in place already): all "
        f"whole, byte for byte; nothing of the user's touched"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
