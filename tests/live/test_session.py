"""The live session's threads, with an engine that takes its time."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from casts import timed_cast

from livetalk_core.live.session import LiveSession

SECOND = np.full(16_000, 0.1, np.float32)


class Kept:
    """A sink that keeps when what came."""

    def __init__(self):
        self.moments, self.closed = [], False

    def __call__(self, moment):
        self.moments.append((time.monotonic(), moment))

    def close(self):
        self.closed = True

    @property
    def sound(self):
        return np.concatenate([moment.sound for _, moment in self.moments])


@contextmanager
def running(cast, *sinks, **options):
    session = LiveSession(cast, sinks, **options)
    failures = []

    def run():
        try:
            session.run()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield session
    finally:
        session.stop()
        thread.join(10)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def say(session, seconds=1.0):
    number = session.begin()
    session.add(np.full(int(16_000 * seconds), 0.1, np.float32))
    session.end()
    return number


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_speech_leaves_with_its_frames_and_is_said():
    kept, said = Kept(), []
    with running(timed_cast(0.2), kept, on_said=said.append) as session:
        until(lambda: session.figures["frames"] > 5)
        number = say(session)
        until(lambda: said)
    assert said == [number]
    assert np.flatnonzero(kept.sound).size == 16_000
    assert all(len(moment.sound) == 640 and moment.pixels.shape == (32, 32, 3) for _, moment in kept.moments)
    assert kept.closed
    times = np.array([at for at, _ in kept.moments])
    assert abs((times[-1] - times[0]) / (len(times) - 1) - 0.04) < 0.01


def test_an_interruption_is_silent_within_80_ms_and_the_stream_goes_on():
    kept = Kept()
    with running(timed_cast(0.2, quick_frames=17), kept) as session:
        say(session, 6)
        until(lambda: session.figures["state"] == "speaking")
        time.sleep(0.3)
        session.interrupt()
        at = time.monotonic()
        until(lambda: kept.moments[-1][0] > at + 1)
        assert session.figures["held_frames"] > 0
    loud = [when for when, moment in kept.moments if np.abs(moment.sound[80:]).max() > 0]
    assert max(loud) < at + 0.08


def test_an_output_that_fails_ends_alone():
    kept = Kept()

    def broken(_):
        raise OSError("the disk is full")

    broken.close = lambda: None
    with running(timed_cast(0.2), broken, kept):
        until(lambda: len(kept.moments) > 20)


def test_a_session_stops_in_the_middle_of_a_chunk():
    began = time.monotonic()
    with running(timed_cast(20.0)):
        time.sleep(0.3)
    assert time.monotonic() - began < 5


def test_what_the_poll_raises_ends_the_session():
    class Cancel(BaseException):
        pass

    def poll():
        if session.figures["frames"] > 3:
            raise Cancel

    kept = Kept()
    session = LiveSession(timed_cast(0.2), [kept])
    with pytest.raises(Cancel):
        session.run(poll)
    assert kept.closed
