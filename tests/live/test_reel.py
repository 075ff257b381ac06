"""Frames around the present."""

import numpy as np
import pytest
import torch

from livetalk_core.live.reel import Moment, Reel


def moment(number, spoken=False):
    return Moment(torch.tensor(number), np.zeros(0), np.zeros(0), spoken)


def numbers(moments):
    return [int(moment.frame) for moment in moments]


@pytest.fixture
def reel():
    reel = Reel(past=3, most=10, group=4)
    for number in range(8):
        assert reel.add(0, moment(number, spoken=2 <= number < 5))
    return reel


def test_places_count_from_the_first_frame(reel):
    assert (reel.shown, reel.end, reel.spoken_begin, reel.spoken_end) == (0, 8, 2, 5)
    assert numbers([reel.take() for _ in range(6)]) == [0, 1, 2, 3, 4, 5]
    assert (reel.shown, reel.lead, reel.end, reel.spoken_begin, reel.spoken_end) == (6, 2, 8, 8, 6)


def test_a_cut_drops_what_is_behind_it_and_refuses_what_was_begun_before(reel):
    for _ in range(3):
        reel.take()
    assert numbers(reel.cut(4)) == [4, 5, 6, 7]
    assert not reel.add(0, moment(4))
    assert reel.add(1, moment(40))
    assert numbers(reel.last(3)) == [2, 3, 40]
    assert (reel.end, reel.spoken_end) == (5, 4)


def test_the_last_frames_are_those_shown_where_nothing_is_ahead(reel):
    for _ in range(5):
        reel.take()
    reel.cut(5)
    assert numbers(reel.last(3)) == [2, 3, 4]
    assert numbers(reel.last(9)) == [2, 3, 4]
