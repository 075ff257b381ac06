"""Chunks that begin where the stream was cut start from the very frames that were shown."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from livetalk_core.config import StreamConfig
from livetalk_core.errors import InputError
from livetalk_core.live.performer import Performer, check_chunk
from livetalk_core.live.schedule import Order
from livetalk_core.streaming.session import ignore_step

SILENCE = np.zeros(4 * 640, np.float32)


def chunk(performer, begin, last):
    return torch.cat([group.frames for group in performer.make(Order(begin, 4, False), last, SILENCE)], dim=1)


def test_a_chunk_at_the_end_of_the_last_one_is_the_sessions_own(small_cast):
    """Two chunks in a row, whatever frames are named as the last ones: those inside the chunk's end are known."""
    performer = Performer(small_cast, ignore_step)
    first = chunk(performer, 0, [])
    follows = chunk(performer, 4, list(first.split(1, dim=1)))
    session = Performer(small_cast, ignore_step)._sessions[4]
    state = session.start(small_cast.seed)
    frames = []
    for begin in (0, 4):
        session.plan.begin = begin
        groups = session.decode(state, session.sample(state))
        while True:
            try:
                frames.append(next(groups).frames)
            except StopIteration as end:
                state = end.value
                break
    assert torch.equal(torch.cat([first, follows], dim=1), torch.cat(frames, dim=1))


def test_a_cut_goes_on_from_the_frames_shown(small_cast):
    """Cut after 6 of 8 frames: what comes next is what a fresh stream makes of those frames' own encoding."""
    performer = Performer(small_cast, ignore_step)
    first = chunk(performer, 0, [])
    second = chunk(performer, 4, [])
    shown = list(torch.cat([first, second[:, :2]], dim=1).split(1, dim=1))[-5:]
    after = chunk(performer, 6, shown)
    other = Performer(small_cast, ignore_step)
    session = other._sessions[4]
    session.plan.begin = 6
    state = session.start(small_cast.seed)
    motion = small_cast.engine.encode(torch.cat(shown, dim=1))
    state = type(state)(2, small_cast.seed, motion)
    wanted = torch.cat([group.frames for group in session.decode(state, session.sample(state))], dim=1)
    assert torch.equal(after, wanted)
    third = Performer(small_cast, ignore_step)
    chunk(third, 0, [])
    chunk(third, 4, [])
    assert not torch.equal(chunk(third, 8, []), after)  # the chunk's own end is another place


def test_what_was_cut_is_led_into_silence_longer_than_into_speech(small_cast):
    """The fourth frame after a cut: the chunk's own where speech begins at once, and still led there in silence."""
    last = [frame + 0.2 for frame in chunk(Performer(small_cast, ignore_step), 0, []).split(1, dim=1)][:3]
    fourth = {}
    for joins, speaks in itertools.product((True, False), repeat=2):
        performer = Performer(replace(small_cast, stream=replace(small_cast.stream, joins=joins)), ignore_step)
        chunk(performer, 0, [])
        groups = performer.make(Order(3, 4, speaks), last, SILENCE)
        fourth[joins, speaks] = torch.cat([group.frames for group in groups], dim=1)[:, 3]
    assert torch.equal(fourth[True, True], fourth[False, True])
    assert not torch.allclose(fourth[True, False], fourth[False, False], atol=1e-3)


def test_work_that_is_broken_off_leaves_a_stream_that_goes_on(small_cast):
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == 3:
            raise KeyError

    performer = Performer(small_cast, stop)
    first = chunk(performer, 0, [])
    with pytest.raises(KeyError):
        chunk(performer, 4, list(first.split(1, dim=1)))
    assert chunk(performer, 4, list(first.split(1, dim=1))).shape == (3, 4, 32, 32)


def test_longer_chunks_than_the_weights_know_are_refused():
    assert check_chunk(17, StreamConfig()).new_frames == 12
    with pytest.raises(InputError, match="chunks of 37 frames; these weights were made for 33"):
        check_chunk(37, StreamConfig())
    with pytest.raises(InputError, match="4n\\+1"):
        check_chunk(16, StreamConfig())
