"""A live stream: speech comes in while it is spoken, frames leave at 25 a second, each with its 40 ms of sound.

Two threads. `run` computes chunks, in the thread that calls it; the emitter sends what is due, by the one clock. What
they share is a `Stage`, under one lock. All other methods may be called from any thread, and return at once.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
from torch import Tensor

from ..shapes import SAMPLES_PER_FRAME
from ..streaming.session import Frames
from .performer import Cast, Performer
from .reel import Moment
from .stage import Stage, Stale, Work

WAKE_SECONDS = 0.05


class Sink(Protocol):
    """Takes what leaves, and returns at once: its work goes on in another thread. What it raises ends it alone."""

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def no_poll() -> None:
    """What is called all along by a session that nobody else can stop."""


class LiveSession:
    """One stream of `cast` to `sinks`. `on_said` is told the number of an utterance whose last frame has left."""

    def __init__(self, cast: Cast, sinks: Sequence[Sink] = (), on_said: Callable[[int], None] = lambda _: None) -> None:
        self.cast = cast
        stream, group = cast.stream, cast.stream.geometry.temporal_stride
        self._stage = Stage(stream.new_frames, cast.quick.new_frames, stream.motion_frames, group)
        self._sinks, self._on_said = list(sinks), on_said
        self._changed = threading.Condition()
        self._stopped = False
        self._prompt: Callable[[], Tensor] | None = None
        self._poll: Callable[[], None] = no_poll

    def begin(self) -> int:
        """A new utterance; its number."""
        with self._changed:
            number = self._stage.begin(time.monotonic())
            self._changed.notify_all()
            return number

    def add(self, sound: np.ndarray) -> None:
        """More of it, [n] float32 at 16 kHz. `InputError` where too much waits."""
        with self._changed:
            self._stage.add(sound, time.monotonic())
            self._changed.notify_all()

    def end(self) -> None:
        """The utterance is complete."""
        with self._changed:
            self._stage.end()
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Be silent from the next frame on, and forget what was to be said."""
        with self._changed:
            self._stage.interrupt()
            self._changed.notify_all()

    def set_prompt(self, text: Callable[[], Tensor]) -> None:
        """What gives the tokens [L,text_dim] of another prompt; called in `run`'s thread, before the next chunk."""
        with self._changed:
            self._prompt = text

    def add_sink(self, sink: Sink) -> None:
        """From now on, send to this one too."""
        with self._changed:
            self._sinks.append(sink)

    def remove_sink(self, sink: Sink) -> None:
        """Send to it no longer, and close it."""
        with self._changed:
            known = sink in self._sinks
            self._sinks = [other for other in self._sinks if other is not sink]
        if known:
            sink.close()

    def stop(self) -> None:
        """End the stream: `run` returns after the step at work."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def room(self) -> bool:
        """Whether little speech waits: who has much to say sends more then."""
        with self._changed:
            return self._stage.room

    @property
    def figures(self) -> dict[str, float | int | str | None]:
        """What is told about the stream (see docs/live.md)."""
        with self._changed:
            return self._stage.told(time.monotonic())

    def run(self, poll: Callable[[], None] = no_poll) -> None:
        """Stream until `stop`, or until `poll`, which is called several times a second, raises."""
        self._poll = poll
        emitter = threading.Thread(target=self._emit, name="LiveTalk clock", daemon=True)
        performer = Performer(self.cast, self._check)
        emitter.start()
        try:
            while (work := self._await_work()) is not None:
                self._perform(performer, work)
        finally:
            self.stop()
            emitter.join()
            for sink in self._sinks:
                sink.close()

    def _await_work(self) -> Work | None:
        """The next chunk, begun; None at the end."""
        with self._changed:
            while not self._stopped:
                self._poll()
                if (work := self._stage.next_work(time.monotonic())) is not None:
                    self._work = work
                    return work
                self._changed.wait(WAKE_SECONDS)
            return None

    def _perform(self, performer: Performer, work: Work) -> None:
        """Compute a chunk, and put its frames on the stage as they come."""
        prompt, self._prompt = self._prompt, None
        if prompt is not None:
            performer.set_prompt(prompt())
        began, first, waited = time.monotonic(), None, 0.0
        try:
            with closing(performer.make(work.order, work.last, work.taken.sound)) as groups:
                for group in groups:
                    first = first or time.monotonic() - began
                    waited += sum(self._put(work, moment) for moment in _moments(work, group, self.cast.shown(group)))
        except Stale:
            first = None
        with self._changed:
            self._stage.worked(first, time.monotonic() - began - waited)

    def _put(self, work: Work, moment: Moment) -> float:
        """Put a moment on the stage when there is room; the seconds until then. Raises `Stale`."""
        began = time.monotonic()
        with self._changed:
            while self._stopped or not self._stage.put(work, moment):
                self._check_work(work)
                self._changed.wait(WAKE_SECONDS)
            self._changed.notify_all()
        return time.monotonic() - began

    def _check(self, _: int) -> None:
        """After each denoising step: is this chunk still wanted?"""
        with self._changed:
            self._check_work(self._work)

    def _check_work(self, work: Work) -> None:
        self._poll()
        if self._stopped:
            raise Stale
        self._stage.check(work)

    def _emit(self) -> None:
        """Send moments as they are due."""
        while (moment := self._await_moment()) is not None:
            for sink in tuple(self._sinks):
                self._send(sink, moment)
            with self._changed:
                said = self._stage.said()
            for number in said:
                self._on_said(number)

    def _await_moment(self) -> Moment | None:
        """What is to leave now; None at the end."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if (moment := self._stage.next_moment(now)) is not None:
                    self._changed.notify_all()
                    return moment
                due = self._stage.clock.due
                self._changed.wait(due - now if due is not None and due > now else WAKE_SECONDS)
            return None

    def _send(self, sink: Sink, moment: Moment) -> None:
        try:
            sink(moment)
        except Exception as error:  # of any kind: one output's fault ends no other
            logging.warning("live: an output ended: %s", error)
            self.remove_sink(sink)


def _moments(work: Work, group: Frames, shown: np.ndarray) -> Iterator[Moment]:
    """A group's frames, each with what is shown of it and with its part of the chunk's sound."""
    for index, pixels in enumerate(shown):
        at = (group.first + index - work.order.begin) * SAMPLES_PER_FRAME
        begins = [arrived for sample, arrived in work.taken.begins if at <= sample < at + SAMPLES_PER_FRAME]
        yield Moment(
            group.frames[:, index : index + 1],
            pixels,
            work.taken.sound[at : at + SAMPLES_PER_FRAME],
            at < work.taken.spoken,
            begins[0] if begins else None,
        )
