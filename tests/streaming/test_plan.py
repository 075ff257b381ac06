"""The plan: every frame exactly once."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.config import StreamConfig
from livetalk_core.errors import InputError
from livetalk_core.streaming.plan import ChunkPlan

STREAM = StreamConfig()


@given(
    total=st.integers(1, 5000),
    live=st.booleans(),
    frame_num=st.sampled_from([9, 33, 81]),
    motion=st.sampled_from([1, 5]),
)
def test_every_frame_exactly_once(total: int, live: bool, frame_num: int, motion: int) -> None:
    plan = ChunkPlan.of(total, StreamConfig(frame_num=frame_num, motion_frames=motion), live)
    frames = [chunk.start + chunk.skip + i for chunk in map(plan.chunk, range(plan.count)) for i in range(chunk.keep)]
    assert frames == list(range(total))


@given(total=st.integers(1, 5000), live=st.booleans())
def test_each_chunk_starts_with_the_end_of_the_one_before(total: int, live: bool) -> None:
    plan = ChunkPlan.of(total, STREAM, live)
    chunks = [plan.chunk(i) for i in range(plan.count)]
    assert all(b.start == a.stop - STREAM.motion_frames for a, b in itertools.pairwise(chunks))
    assert all(chunk.keep > 0 for chunk in chunks)


@pytest.mark.parametrize(("total", "count"), [(1, 1), (33, 1), (34, 2), (61, 2), (62, 3), (250, 9)])
def test_counts_of_the_file_mode(total: int, count: int) -> None:
    assert ChunkPlan.of(total, STREAM).count == count


def test_live_mode_gives_28_frames_a_chunk() -> None:
    plan = ChunkPlan.of(57, STREAM, live=True)
    assert [(plan.chunk(i).start, plan.chunk(i).skip, plan.chunk(i).keep) for i in range(plan.count)] == [
        (-5, 5, 28), (23, 5, 28), (51, 5, 1),
    ]  # fmt: skip


def test_hours_cost_nothing() -> None:
    plan = ChunkPlan.of(10 * 3600 * 25, STREAM)
    assert plan.chunk(plan.count - 1).stop >= plan.total_frames


def test_outside_the_plan_is_refused() -> None:
    with pytest.raises(InputError, match="0 frames"):
        ChunkPlan.of(0, STREAM)
    with pytest.raises(InputError, match="chunk 1 of a plan of 1"):
        ChunkPlan.of(5, STREAM).chunk(1)
