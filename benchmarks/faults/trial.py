"""One fault in the middle of a render, and what became of the render, the next job and what might be left behind."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import torch
from torch import Tensor

from benchmarks.fleet_path import session_of
from livetalk_core.errors import LiveTalkError, WorkerError
from livetalk_core.hardware.machine import ROOT
from livetalk_core.media.place import partial_path
from livetalk_core.parallel.fleet import Fleet
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd, Frames

from .cases import CHUNKS, STAGES, Case, Fault
from .grounds import Undo, is_running, nothing

SIDE, SEED = 64, 7
NAMED_SECONDS, GONE_SECONDS = 15, 5
MOST_JOBS = 3
LOOK = 0.001


class Ground(Protocol):
    """A fleet and what can be done to it: see `LocalGround`."""

    fleet: Fleet
    faults: dict[str, Fault]

    def begin_load(self) -> None:
        """See `LocalGround.begin_load`."""
        ...

    def inject(self, case: Case) -> Undo:
        """See `LocalGround.inject`."""
        ...

    def leftovers(self) -> dict[str, int]:
        """See `LocalGround.leftovers`."""
        ...


class Outcome(NamedTuple):
    """What a render came to: its time, chunks on the disk, frames by their numbers, and how it failed."""

    begun: float
    ended: float
    chunks: int
    pixels: dict[int, Tensor]
    error: Exception | None


class Injector:
    """A thread that does what a case says once its moment has come; a context, which undoes it."""

    def __init__(self, ground: Ground, case: Case, stage_seconds: dict[str, float]) -> None:
        self._ground, self._case = ground, case
        self._delay = case.moment * stage_seconds[case.stage]
        self._undo: Undo = nothing
        self._over, self._reached = threading.Event(), threading.Event()
        self.at: float | None = None
        """When it was done."""
        self.failure: Exception | None = None
        """Why it could not be done."""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Injector":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
        self._undo()

    def pass_chunk(self, index: int) -> None:
        """So many chunks are on the disk."""
        if index >= self._case.chunk:
            self._reached.set()

    def _run(self) -> None:
        if self._case.stage != "load":
            while not self._over.is_set() and not (
                self._reached.is_set() and self._ground.fleet.stage == self._case.stage
            ):
                time.sleep(LOOK)
        self._over.wait(self._delay)
        if not self._over.is_set():
            self.at = time.monotonic()
            try:
                self._undo = self._ground.inject(self._case)
            except Exception as error:
                self.failure = error


class Listener(logging.Handler):
    """Notes what is logged."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._messages.append(record.getMessage())


class Trial:
    """Renders on one ground, compared with one that nothing happened to."""

    def __init__(self, ground: Ground, folder: Path, temporary: Path) -> None:
        """`folder` takes the videos; `temporary` is where nothing may stay."""
        self._ground, self._folder, self._temporary = ground, folder, temporary
        self._warnings: list[str] = []
        logging.getLogger().addHandler(Listener(self._warnings))
        ground.fleet.start()  # the first time it takes longer
        ground.begin_load()
        begun = time.monotonic()
        ground.fleet.start()
        self.stage_seconds = {"load": time.monotonic() - begun}
        self._session = session_of(ground.fleet, SIDE, SIDE, CHUNKS)
        self._undisturbed_frames = self._undisturbed()
        self._before = ground.leftovers()

    def _undisturbed(self) -> dict[int, Tensor]:
        """The frames of a render; notes how long its stages take."""
        over, seen = threading.Event(), Counter[str | None]()

        def look() -> None:
            last = time.monotonic()
            while not over.wait(LOOK):
                now = time.monotonic()
                seen[self._ground.fleet.stage] += now - last  # pyright: ignore[reportArgumentType]  # seconds
                last = now

        self._session.pixels = True
        thread = threading.Thread(target=look)
        thread.start()
        outcome = self._render("undisturbed", resume=False)
        over.set()
        thread.join()
        if outcome.error is not None:
            raise outcome.error
        self.stage_seconds |= {stage: seen[stage] / CHUNKS for stage in STAGES[1:]}
        return outcome.pixels

    def run(self, case: Case) -> dict[str, Any]:
        """What was found; `problems` is empty where all was as it must be."""
        self._session.pixels = case.whole
        self._warnings.clear()
        if case.stage == "load":
            self._ground.begin_load()
        old = [member.about["process"] for member in self._ground.fleet.members]
        name = f"render {case.number}"
        with Injector(self._ground, case, self.stage_seconds) as injector:
            outcomes = [self._render(name, False, injector.pass_chunk)]
        problems = self._kept(name, outcomes[0])
        while len(outcomes) == 1 or (outcomes[-1].error is not None and len(outcomes) < MOST_JOBS):
            finished = (self._folder / f"{name}.mp4").exists()
            name += " again" * finished
            outcomes.append(self._render(name, resume=not finished))
        errors = [outcome for outcome in outcomes if outcome.error is not None]
        after = errors[0].ended - max(injector.at or 0.0, errors[0].begun) if errors else None
        problems += self._judge(case, injector, errors, after)
        problems += [f"the next job failed: {outcomes[-1].error}"] * (outcomes[-1].error is not None)
        ended = any(isinstance(outcome.error, WorkerError) for outcome in errors)
        problems += self._compare(outcomes) + self._left(old if ended else [])
        said = self._placeless(str(errors[0].error)) if errors else None
        done, problems = injector.at is not None, [self._placeless(problem) for problem in problems]
        return {**case._asdict(), "done": done, "said": said, "after": after, "problems": problems}

    def _placeless(self, text: str) -> str:
        """`text` without where this machine keeps the project and the videos: records are for others to read."""
        for place in (self._folder, self._temporary, ROOT):
            text = text.replace(f"{place}/", "")
        return text

    def _judge(self, case: Case, injector: Injector, errors: list[Outcome], after: float | None) -> list[str]:
        """What is wrong with the errors of a case."""
        if injector.at is None:
            return []  # the render was over before
        if injector.failure is not None:
            return [f"it could not be done: {injector.failure}"]
        if not errors:
            harmless = case.stage in self._ground.faults[case.fault].harmless
            return [] if harmless or case.logged_by(self._warnings) else ["nothing was said"]
        error, problems = errors[0].error, []
        if not (isinstance(error, LiveTalkError) and case.named_by(str(error), self._ground.faults)):
            problems.append(f"wrongly named: {type(error).__name__}")
        if after is not None and after > NAMED_SECONDS:
            problems.append(f"named after {after:.1f} s")
        if len(errors) > 1:
            problems.append(f"and then: {errors[1].error}")
        return problems

    def _render(self, name: str, resume: bool, on_chunk: Callable[[int], Any] = lambda _: None) -> Outcome:
        render = Render(self._session, self._folder / f"{name}.mp4", SEED, None, {}, resume=resume)
        begun, chunks, pixels, failed = time.monotonic(), 0, dict[int, Tensor](), None
        try:
            with closing(render.run()) as events:
                on_chunk(0)
                for event in events:
                    if isinstance(event, Frames):
                        pixels[event.first] = event.pixels
                    elif isinstance(event, ChunkEnd):
                        chunks = event.chunk.index + 1
                        on_chunk(chunks)
        except Exception as error:
            failed = error
        return Outcome(begun, time.monotonic(), chunks, pixels, failed)

    def _kept(self, name: str, outcome: Outcome) -> list[str]:
        """Whether what was on the disk before an error still plays."""
        if outcome.error is None or not outcome.chunks:
            return []
        last = self._session.plan.chunk(outcome.chunks - 1)
        needed, there = last.start + last.skip + last.keep, playable(partial_path(self._folder / f"{name}.mp4"))
        return [] if there >= needed else [f"{there} frames play of {needed}"]

    def _compare(self, outcomes: list[Outcome]) -> list[str]:
        """Whether all frames are those of the render that nothing happened to."""
        shown = {first: pixels for outcome in outcomes for first, pixels in outcome.pixels.items()}
        wrong = [
            first
            for first, frames in self._undisturbed_frames.items()
            if not torch.equal(shown.get(first, frames[:0]), frames)
        ]
        return [f"other frames from {wrong[0]} on"] if wrong else []

    def _left(self, old: list[int]) -> list[str]:
        """What a fault has left behind, once a moment has passed."""
        until = time.monotonic() + GONE_SECONDS
        while (problems := self._left_now(old)) and time.monotonic() < until:
            time.sleep(0.1)
        return problems

    def _left_now(self, old: list[int]) -> list[str]:
        kept = [process for process in old if is_running(process)]
        left, files = self._ground.leftovers(), [path.name for path in self._temporary.iterdir()]
        problems = [f"still running: {kept}"] * bool(kept) + [f"temporary files: {files}"] * bool(files)
        return problems + [f"{left} left of {self._before}"] * (left != self._before)


def playable(path: Path) -> int:
    """How many frames of a video can be decoded."""
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))
