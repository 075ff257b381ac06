"""Streams of many subjects and seeds, each measured while it is made, some at a time in processes of their own.

A process runs whole streams, one after another, on one thread: on CPUs several streams computed as one batch gain
nothing (convolutions over eight clips take as long as eight over one), and processes need no barriers.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...shapes import FRAMES_PER_SECOND
from ...streaming.session import Frames
from .course import Course, Meter
from .entrants import Entrant
from .measurer import Measurer, load_measurer
from .performers import Performer
from .subjects import Cast, Subject

WINDOW_SECONDS = 50
"""Of which what is reported over time consists; a short stream is cut into halves."""
PICTURES = 8
"""Frames of each stream that are kept to look at."""


class Job(NamedTuple):
    """One stream to make: who performs which subject, from which noise."""

    entrant: Entrant
    cast: Cast
    subject: int
    seed: int
    device: torch.device
    dtype: torch.dtype


class Outcome(NamedTuple):
    """What came of it: the course, pictures [8,H,W,3] in uint8, and seconds of processor time, with measuring."""

    course: Course
    pictures: Tensor
    seconds: float


def window_of(frames: int) -> int:
    """Frames of a window of a stream."""
    return max(1, min(WINDOW_SECONDS * FRAMES_PER_SECOND, frames // 2))


def perform(performer: Performer, subject: Subject, seed: int, measurer: Measurer) -> Outcome:
    """Make and measure one stream. No frame is kept but a few pictures."""
    started = time.process_time()
    session = performer.session(subject)
    meter = Meter(measurer, subject.portrait[0], subject.places, window_of(subject.frames))
    picture_frames = torch.linspace(0, subject.frames - 1, PICTURES).long()
    pictures: list[Tensor] = []
    chunk = 0
    for event in session.run(session.start(seed)):
        if isinstance(event, Frames):
            meter.add(event.frames, border=event.chunk.index > chunk)
            chunk = event.chunk.index
            here = picture_frames[
                (picture_frames >= event.first) & (picture_frames < event.first + event.frames.shape[1])
            ]
            if len(here):
                pictures.append(event.pixels[here - event.first])
    return Outcome(meter.course(), torch.cat(pictures), time.process_time() - started)


def run(job: Job) -> Outcome:
    """A job from its description, for processes of their own."""
    subject = job.cast.subject(job.subject)
    return perform(_opened(job.entrant, job.device, job.dtype), subject, job.seed, _measurer())


def run_all(jobs: Sequence[Job], workers: int, run: Callable[[Job], Outcome] = run) -> Iterator[Outcome]:
    """The outcomes in the order of the jobs; with one worker in this process. `run` makes one, and can be pickled."""
    if workers == 1:
        yield from map(run, jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(run, jobs)
    finally:  # where the user stopped it, streams that last minutes are not waited for
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


@lru_cache(maxsize=1)
def _opened(entrant: Entrant, device: torch.device, dtype: torch.dtype) -> Performer:
    return entrant.open(device, dtype)


@lru_cache(maxsize=1)
def _measurer() -> Measurer:
    return load_measurer()
