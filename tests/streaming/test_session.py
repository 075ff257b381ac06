"""The loop, with small random models: order, resuming, prompts, cancelling, early frames."""

from dataclasses import replace

import pytest
import torch

from livetalk_core.checkpoints import nano
from livetalk_core.config import CorrectionConfig
from livetalk_core.errors import Cancelled
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.session import ChunkEnd, Frames, encode_revised

TOTAL = 14


def frames_of(events) -> torch.Tensor:
    return torch.cat([event.frames for event in events if isinstance(event, Frames)], dim=1)


def test_every_frame_comes_once_and_in_order(session):
    position = 0
    for event in session.run(session.start(0)):
        if isinstance(event, Frames):
            assert event.first == position
            position += event.frames.shape[1]
            assert event.pixels.shape[1:] == (32, 32, 3)
    assert position == TOTAL


def test_first_frames_leave_before_the_chunk_is_decoded(session, monkeypatch):
    decoded = []
    decode = session.engine.decode

    def watched(latent):
        for group in decode(latent):
            decoded.append(group.shape[1])
            yield group

    monkeypatch.setattr(session.engine, "decode", watched)
    first = next(session.run(session.start(0)))
    assert isinstance(first, Frames) and first.frames.shape[1] == 1
    assert decoded == [1]


def test_resumed_chunks_equal_the_uninterrupted_ones_bit_for_bit(session):
    events = list(session.run(session.start(7)))
    states = [event.state for event in events if isinstance(event, ChunkEnd)]
    rest = list(session.run(states[0]))
    kept = session.plan.chunk(0).keep
    assert torch.equal(frames_of(events)[:, kept:], frames_of(rest))


def test_a_stream_goes_on_from_the_last_frames_of_another(session):
    events = list(session.run(session.start(7)))
    tail = frames_of(events)[:, -session.stream.motion_frames :]
    plan = session.plan._replace(live=True)
    after = replace(session, plan=plan, before=tail)
    state = after.start(7)
    assert torch.equal(state.motion, session.engine.encode(tail))
    onward = list(after.run(state))
    assert frames_of(onward).shape[1] == TOTAL
    border = (frames_of(onward)[:, 0] - tail[:, -1]).abs().mean()
    anew = (frames_of(events)[:, 0] - tail[:, -1]).abs().mean()
    assert border < anew


def test_revisions_bring_what_is_handed_on_nearer_to_its_frames():
    vae = nano.vae("cpu", torch.float32)
    engine = LocalEngine(nano.transformer("cpu", torch.float32), vae)
    row = torch.linspace(0, 12, 64)
    frames = torch.sin(row[:, None] * torch.cos(row / 4)).expand(3, 5, 64, 64)

    def off(revisions: int) -> float:
        latent = encode_revised(engine, frames, revisions)
        return float((torch.cat(list(engine.decode(latent)), dim=1) - frames).square().mean())

    assert torch.equal(encode_revised(engine, frames, 0), engine.encode(frames))
    assert off(2) < off(1) < off(0)


def test_a_chunk_hands_on_revised_latents(session):
    revised = replace(session, stream=replace(session.stream, revisions=1))
    plain, other = (
        next(event.state.motion for event in one.run(one.start(0)) if isinstance(event, ChunkEnd))
        for one in (session, revised)
    )
    assert plain.shape == other.shape
    assert not torch.allclose(plain, other, atol=1e-3)


@pytest.fixture
def corrected(session):
    """The same stream, corrected at every chunk."""
    correction = CorrectionConfig(interval=1, lookback=1, threshold=0.0, strength=1.0)
    return replace(session, stream=replace(session.stream, correction=correction))


def test_correction_changes_what_follows_the_first_chunk(session, corrected):
    plain, changed = frames_of(session.run(session.start(7))), frames_of(corrected.run(corrected.start(7)))
    kept = session.plan.chunk(0).keep
    assert torch.equal(plain[:, :kept], changed[:, :kept])
    assert not torch.equal(plain[:, kept:], changed[:, kept:])


def test_a_corrected_stream_resumes_bit_for_bit(corrected):
    events = list(corrected.run(corrected.start(7)))
    states = [event.state for event in events if isinstance(event, ChunkEnd)]
    assert states[0].review is not None
    rest = list(corrected.run(states[1]))
    kept = sum(corrected.plan.chunk(index).keep for index in range(2))
    assert torch.equal(frames_of(events)[:, kept:], frames_of(rest))


def test_a_corrected_chunk_joins_the_last_frame_shown(corrected):
    events = list(corrected.run(corrected.start(7)))
    states = [event.state for event in events if isinstance(event, ChunkEnd)]
    kept = corrected.plan.chunk(0).keep
    assert torch.equal(states[0].shown, frames_of(events)[:, kept - 1 : kept])
    latent = corrected.sample(states[0])
    lead = frames_of(corrected.decode(states[0], latent, lead=1))[:, :1]
    assert torch.allclose(lead, states[0].shown, atol=1e-6)


def test_without_correction_nothing_is_reviewed(session):
    ends = [event for event in session.run(session.start(7)) if isinstance(event, ChunkEnd)]
    assert all(end.state.review is None and end.state.shown is None for end in ends)


def test_the_seed_is_felt(session):
    a, b = (frames_of(session.run(session.start(seed))) for seed in (1, 2))
    assert not torch.equal(a, b)


def test_a_prompt_holds_from_its_chunk_on(session):
    changed = replace(session, prompts={1: torch.full((3, 12), -2.0)})
    a, b = frames_of(session.run(session.start(0))), frames_of(changed.run(session.start(0)))
    kept = session.plan.chunk(0).keep
    assert torch.equal(a[:, :kept], b[:, :kept])
    assert not torch.equal(a[:, kept:], b[:, kept:])


@pytest.mark.parametrize(
    ("part", "times"), [("embed_context", 1), ("embed_scene", 1), ("embed_timestep", 2), ("embed_audio", 3)]
)
def test_nothing_is_embedded_twice(session, monkeypatch, part, times):
    """Three chunks of two steps: contexts once per avatar, timesteps once each, sound once per chunk."""
    calls = []
    engine = LocalEngine(session.engine.transformer, session.engine.vae)
    embed = getattr(engine.transformer, part)
    monkeypatch.setattr(engine.transformer, part, lambda *a: calls.append(1) or embed(*a))
    list(replace(session, engine=engine).run(session.start(0)))
    assert len(calls) == times


def test_the_callback_can_stop_a_chunk_between_steps(session):
    steps = []

    def stop(step):
        steps.append(step)
        raise Cancelled

    with pytest.raises(Cancelled):
        list(replace(session, on_step=stop).run(session.start(0)))
    assert steps == [1]


def test_global_random_state_is_neither_used_nor_changed(session):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(session.run(session.start(0)))
    assert torch.equal(before, torch.get_rng_state())


def test_inputs_made_ahead_change_nothing(session):
    plain, ahead = (frames_of(replace(session, ahead=way).run(session.start(5))) for way in (False, True))
    assert torch.equal(plain, ahead)


def test_next_chunks_sound_is_encoded_while_this_one_is_computed(session):
    asked = []

    class Watched:
        def for_chunk(self, chunk):
            asked.append(chunk.index)
            return session.features.for_chunk(chunk)

    events = replace(session, features=Watched(), ahead=True).run(session.start(0))
    next(events)
    events.close()  # waits for the thread
    assert asked == [0, 1]


def test_an_error_of_the_features_is_the_sessions(session):
    class Broken:
        def for_chunk(self, chunk):
            raise Cancelled

    with pytest.raises(Cancelled):
        list(replace(session, features=Broken(), ahead=True).run(session.start(0)))
