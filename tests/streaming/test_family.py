"""Streams of every member of the family: rendered, stopped and resumed to the same frames, corrected, of any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from livetalk_core.config import CorrectionConfig, LTXVAEConfig, StreamConfig, TransformerConfig, VAEConfig
from livetalk_core.errors import InputError
from livetalk_core.models import operations
from livetalk_core.models.codec import build_vae
from livetalk_core.models.transformer import Transformer
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import LTX
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd, Frames, Session

MEMBERS = ("flashhead-pro", "flashhead-lite", "leaptalk")
WIDTHS = TransformerConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, in_dim=32, freq_dim=16, audio_blocks=2, audio_channels=6,
    intermediate_dim=16, output_dim=24, context_tokens=3, prompted=False,
)  # fmt: skip
LTX_WIDTHS = LTXVAEConfig((4, 4, 8, 8), (1, 1, 1, 1, 1))


def randomized(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval().requires_grad_(False)


class Windows:
    """Random windows of any frame."""

    def for_chunk(self, chunk):
        generator = torch.Generator().manual_seed(chunk.start)
        return torch.randn(1, chunk.frames, 5, 2, 6, generator=generator)


def session_of(member: str, size=(64, 32), frames=29, **changes) -> Session:
    """A stream of a member's build with random weights; Lite's chunks are shorter here, to be quick."""
    lite = member == "flashhead-lite"
    chunks = {"frame_num": 17, "motion_frames": 9} if lite else {"frame_num": 13, "motion_frames": 5}
    stream = replace(PRESETS[member].stream, height=size[0], width=size[1], **{**chunks, **changes})
    config = replace(WIDTHS, in_dim=256, out_dim=128, geometry=LTX) if lite else WIDTHS
    vae = randomized(build_vae(LTX_WIDTHS if lite else VAEConfig(dim=4), operations, None, torch.float32), 2)
    if lite:
        vae.latents_mean, vae.latents_std = torch.zeros(128), torch.ones(128)
    engine = LocalEngine(randomized(Transformer(config), 1), vae, shift=stream.shift, bridge=stream.bridge)
    reference = torch.rand(1, 3, 1, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    avatar = prepare_avatar(reference, None, None, engine.encode, stream)
    return Session(engine, avatar, Windows(), ChunkPlan.of(frames, stream), stream)


def frames_of(session: Session, seed=7) -> torch.Tensor:
    events = session.run(session.start(seed))
    return torch.cat([event.pixels for event in events if isinstance(event, Frames)])


@pytest.mark.parametrize("member", MEMBERS)
def test_stopped_and_resumed_it_is_the_same_to_the_frame(member, tmp_path):
    whole = frames_of(session_of(member))
    assert len(whole) == 29
    render = Render(session_of(member), tmp_path / "talk.mp4", 7, None, {"member": member})
    before: list[Frames] = []
    events = render.run()
    for event in events:
        if isinstance(event, ChunkEnd) and event.chunk.index == 1:
            break
        before += [event] if isinstance(event, Frames) else []
    next(events)
    events.close()
    again = replace(render, session=session_of(member), resume=True)
    after = [event for event in again.run() if isinstance(event, Frames)]
    assert after[0].first == sum(event.frames.shape[1] for event in before)
    assert np.array_equal(torch.cat([event.pixels for event in (*before, *after)]), whole)


def test_lites_draws_depend_on_seed_and_chunk_alone():
    session = session_of("flashhead-lite")
    video = torch.zeros(3, 9, 64, 32)
    drawn = {key: session.encode(video, *key) for key in ((7, 1), (7, 2), (8, 1))}
    assert torch.equal(drawn[7, 1], session.encode(video, 7, 1))
    assert not torch.equal(drawn[7, 1], drawn[7, 2]) and not torch.equal(drawn[7, 1], drawn[8, 1])
    assert not torch.equal(drawn[7, 1], session.engine.encode(video))


def test_a_vae_that_draws_nothing_is_refused_for_lite():
    lite, pro = session_of("flashhead-lite"), session_of("flashhead-pro")
    with pytest.raises(InputError, match="needs the LTX VAE"):
        replace(lite, engine=pro.engine).encode(torch.zeros(3, 9, 64, 32), 7, 1)


def test_a_seed_has_no_effect_on_leaptalks_single_step():
    assert torch.equal(frames_of(session_of("leaptalk", frames=13)), frames_of(session_of("leaptalk", frames=13), 8))
    more = [frames_of(session_of("leaptalk", frames=13, steps=2), seed) for seed in (7, 8)]
    assert not torch.equal(*more)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_leaptalk_takes_one_two_or_four_steps(steps):
    counted: list[int] = []
    session = replace(session_of("leaptalk", frames=13, steps=steps), on_step=counted.append)
    assert torch.isfinite(session.sample(session.start(0))).all()
    assert counted == list(range(1, steps + 1))


@pytest.mark.parametrize("member", MEMBERS)
def test_retrospective_correction_reaches_every_member(member):
    plain = frames_of(session_of(member))
    correction = CorrectionConfig(interval=1, lookback=1, threshold=0.0, strength=1.0)
    corrected = frames_of(session_of(member, correction=correction))
    first = 13 if member != "flashhead-lite" else 17
    assert torch.equal(plain[:first], corrected[:first]) and not torch.equal(plain[first:], corrected[first:])


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    "size", [(576, 320), *(pytest.param(size, marks=pytest.mark.slow) for size in ((512, 512), (768, 448), (448, 768)))]
)
def test_the_sizes_that_are_asked_for(member, size):
    """In full, by models of test widths: two of the shortest chunks of one step."""
    stride = PRESETS[member].geometry.temporal_stride
    session = session_of(member, size, frames=1 + 2 * stride, frame_num=1 + stride, motion_frames=1, steps=1)
    frames = frames_of(session)
    assert frames.shape == (1 + 2 * stride, *size, 3) and session.plan.count == 2
    assert frames.float().std() > 0


@pytest.mark.parametrize(
    ("member", "size"),
    [("flashhead-pro", (80, 48)), ("leaptalk", (48, 16)), ("flashhead-lite", (96, 32)), ("flashhead-lite", (32, 96))],
)
def test_odd_grids(member, size):
    assert frames_of(session_of(member, size, frames=13)).shape == (13, *size, 3)


def test_lites_multiples_are_asked_for_by_name():
    with pytest.raises(InputError, match="both sides must be multiples of 32: the nearest is 576x320"):
        PRESETS["flashhead-lite"].sized((320, 560))
    for size in ((512, 512), (768, 448), (448, 768), (576, 320)):
        assert all(isinstance(PRESETS[member].sized(size).stream, StreamConfig) for member in MEMBERS)
