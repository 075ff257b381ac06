"""What is sent for a chunk comes back as it was: sound without what its windows repeat, the stream, the state."""

import json

import pytest
import torch

from livetalk_core.config import INFINITETALK, CorrectionConfig, StreamConfig
from livetalk_core.models.audio_encoder import windows
from livetalk_core.parallel.protocol import Message, pack, unpack
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.session import Order, ignore_step
from livetalk_core.streaming.state import StreamState
from livetalk_core.streaming.whole_chunks import order_message, session_of, state_of, stream_of, without_overlap


def test_windows_that_move_on_by_one_are_sent_once():
    features = torch.randn(37, 3, 4)
    cut = torch.stack([windows(features, 2, 35)] * 2)
    sound, overlapping = without_overlap(cut)
    assert overlapping and sound.shape == (2, 37, 3, 4)


def test_windows_that_do_not_are_sent_as_they_are():
    odd = torch.randn(1, 33, 5, 3, 4)
    sound, overlapping = without_overlap(odd)
    assert not overlapping and sound is odd


@pytest.mark.parametrize(
    "stream", [StreamConfig(), INFINITETALK, StreamConfig(correction=CorrectionConfig(strength=0.25), revisions=1)]
)
def test_an_order_arrives_as_it_was_given(stream, session):
    state = StreamState(3, 11, torch.randn(16, 2, 8, 8), review=torch.randn(2, 16, 2, 3))
    audio = windows(torch.randn(37, 3, 4), 2, 35)[None]
    plan = ChunkPlan.of(500, stream)
    fields, tensors = order_message(Order(session.avatar, audio, state, plan, stream))
    data = pack(Message("call", 1, fields, tensors))
    header = int.from_bytes(data[:4], "big")
    message = unpack(data[12 : 12 + header], data[12 + header :])
    made, there = session_of(session.engine, session.avatar, message.fields, message.tensors, ignore_step)
    assert made.stream == stream and made.plan == plan and (there.next_chunk, there.seed) == (3, 11)
    assert torch.equal(there.motion, state.motion) and torch.equal(there.review, state.review) and there.shown is None
    assert torch.equal(made.features.for_chunk(plan.chunk(3)), audio)


def test_a_stream_passes_through_json(session):
    state, plan = StreamState(0, 0, torch.zeros(1)), ChunkPlan(1, 5, 1)
    fields, _ = order_message(Order(session.avatar, torch.zeros(1, 2, 5, 1, 1), state, plan, INFINITETALK))
    assert stream_of(json.loads(json.dumps(fields["stream"]))) == INFINITETALK
    assert state_of(4, 5, {"state.motion": torch.ones(2)}).motion.tolist() == [1, 1]
