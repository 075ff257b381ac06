"""The clock: 25 a second from the first frame on, and what is late stops it."""

import pytest

from livetalk_core.live.clock import FrameClock


def test_frames_are_due_every_40_ms_from_the_first():
    clock = FrameClock()
    assert clock.due is None
    for frame in range(1000):
        clock.sent(7 + frame / 25)
    assert clock.due == pytest.approx(7 + 1000 / 25, abs=1e-9)
    assert (clock.late, clock.stopped) == (0, 0)


def test_a_thread_that_woke_late_is_made_up_for():
    clock = FrameClock()
    clock.sent(0)
    clock.sent(0.055)
    assert clock.due == pytest.approx(0.08)
    assert clock.late == 0


def test_a_late_frame_stops_the_clock():
    clock = FrameClock()
    clock.sent(0)
    assert clock.is_late(0.1)
    clock.sent(0.5)
    assert clock.due == pytest.approx(0.54)
    assert (clock.late, clock.stopped) == (1, pytest.approx(0.46))
