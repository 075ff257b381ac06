"""A NaN or an infinity anywhere in a chunk stops the stream at that chunk, and what was made before it stays."""

from dataclasses import replace

import av
import pytest
import torch

from livetalk_core.errors import InputError, NumbersError
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd, Frames

STAGES = {
    "sound": "sound features",
    "start": "motion latents it starts from",
    "noise": "latents",
    "denoise": "latents",
    "decode": "frames",
    "color": "matched colours",
    "encode": "motion latents it hands on",
}


class Spoiled:
    """An engine whose verb gives one bad number in the second chunk."""

    def __init__(self, engine, verb: str, bad: float) -> None:
        self.engine, self.verb, self.bad, self.chunk = engine, verb, bad, 0

    def denoise(self, *given):
        self.chunk += 1
        return self._spoil("denoise", self.engine.denoise(*given))

    def decode(self, latent):
        for group in self.engine.decode(latent):
            yield self._spoil("decode", group)

    def encode(self, frames):
        return self._spoil("encode", self.engine.encode(frames))

    def _spoil(self, verb: str, numbers: torch.Tensor) -> torch.Tensor:
        return spoiled(numbers, self.bad) if verb == self.verb and self.chunk == 2 else numbers


def spoiled(numbers: torch.Tensor, bad: float) -> torch.Tensor:
    """The same with one bad number, in the last place."""
    numbers = numbers.clone(memory_format=torch.contiguous_format)
    numbers.view(-1)[-1] = bad
    return numbers


def spoil(session, stage: str, bad: float):
    """The session with one bad number at a stage of its second chunk."""
    if stage == "sound":

        class Features:
            def for_chunk(self, chunk):
                found = session.features.for_chunk(chunk)
                return spoiled(found, bad) if chunk.index == 1 else found

        return replace(session, features=Features())
    if stage == "noise":

        def noise(seed):
            source = session.noise(seed)
            return lambda index, shape: spoiled(source(index, shape), bad if index == 1 else 0.0)

        return replace(session, noise=noise)
    bad_session = replace(session, engine=Spoiled(session.engine, stage, bad))
    if stage == "color":
        match_color, chunks = bad_session._match_color, iter(range(1, 2))

        def discolored(frames):
            """In the second chunk's first group alone: nothing of it is handed on."""
            first = bad_session.engine.chunk == 2 and next(chunks, None)
            return spoiled(match_color(frames), bad) if first else match_color(frames)

        bad_session._match_color = discolored
    return bad_session


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "start"])
def test_a_bad_number_stops_the_stream_at_its_chunk(session, stage, bad):
    bad_session = spoil(session, stage, bad)
    frames = session.plan.chunk(0).keep
    events = []
    with pytest.raises(NumbersError) as caught:
        for event in bad_session.run(session.start(0)):
            events.append(event)
    ends = [event for event in events if isinstance(event, ChunkEnd)]
    assert [end.chunk.index for end in ends] == [0]
    assert all(torch.isfinite(event.frames).all() for event in events if isinstance(event, Frames) and not event.first)
    message = str(caught.value)
    assert f"chunk 2 (from {frames / 25:.2f} s on): its {STAGES[stage]} are not finite" in message
    assert "likely: " in message and "\n" not in message


def test_a_state_that_was_saved_broken_is_not_gone_on_from(session):
    ends = [event for event in session.run(session.start(0)) if isinstance(event, ChunkEnd)]
    broken = replace(ends[0].state, motion=spoiled(ends[0].state.motion, float("nan")))
    with pytest.raises(NumbersError, match="motion latents it starts from are not finite"):
        list(session.run(broken))


@pytest.mark.parametrize("stage", ["sound", "noise", "denoise"])
def test_a_chunk_that_is_only_sampled_is_checked_too(session, stage):
    state = next(event.state for event in session.run(session.start(0)) if isinstance(event, ChunkEnd))
    bad_session = spoil(session, stage, float("nan"))
    if stage == "denoise":
        bad_session.engine.chunk = 1
    with pytest.raises(NumbersError, match=f"its {STAGES[stage]}"):
        bad_session.sample(state)


def test_a_latent_from_elsewhere_is_checked(session):
    latent = session.sample(session.start(0))
    with pytest.raises(NumbersError, match="its latents are not finite"):
        list(session.decode(session.start(0), spoiled(latent, float("nan"))))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "start"])
def test_the_part_before_it_plays(session, tmp_path, stage):
    render = Render(spoil(session, stage, float("nan")), tmp_path / "talk.mp4", 0, None, {})
    with pytest.raises(NumbersError):
        list(render.run())
    assert not render.output.exists()
    with av.open(str(tmp_path / "talk.partial.mp4")) as container:
        assert len(list(container.decode(video=0))) == session.plan.chunk(0).keep


def test_frames_that_an_upscaler_spoils_are_not_written(session, tmp_path):
    class Upscaler:
        scale, groups = 2, 0

        def __call__(self, frames):
            self.groups += 1
            larger = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return spoiled(larger, float("nan")) if self.groups == 4 else larger

    render = Render(session, tmp_path / "talk.mp4", 0, None, {}, upscaler=Upscaler())
    with pytest.raises(NumbersError, match=r"^chunk 2 .* its images are not finite"):
        list(render.run())
    with av.open(str(tmp_path / "talk.partial.mp4")) as container:
        assert len(list(container.decode(video=0))) == session.plan.chunk(0).keep


def test_a_chunk_is_read_once(session, monkeypatch):
    """Sums and motion latents come by one copy, and no number is asked for before."""
    from livetalk_core.streaming import finite

    reads = []
    read = finite.Watch.read
    monkeypatch.setattr(finite.Watch, "read", lambda watch, *kept: reads.append(len(kept)) or read(watch, *kept))
    list(session.run(session.start(0)))
    assert reads == [1] * session.plan.count


@pytest.mark.parametrize("part", ["portrait", "prompt's tokens", "portrait's tokens", "portrait's latent"])
def test_an_avatar_that_is_not_finite_is_refused(session, part):
    avatar = session.avatar
    parts = {"portrait": avatar.reference, "portrait's tokens": avatar.clip, "prompt's tokens": avatar.text}
    if part in parts:
        parts[part] = spoiled(parts[part], float("nan"))

    def encode(video):
        latent = session.engine.encode(video)
        return spoiled(latent, float("nan")) if part == "portrait's latent" else latent

    with pytest.raises(InputError, match=f"^the {part} must be finite numbers"):
        prepare_avatar(*parts.values(), encode, session.stream)
