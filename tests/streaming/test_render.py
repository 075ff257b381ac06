"""Rendering to a file: length, sound, resuming, refusing, and what is left after a stop."""

import itertools
import json
import threading
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from livetalk_core.config import LARGEST_SEED, CorrectionConfig
from livetalk_core.errors import OutputError, ResumeError, TakenError
from livetalk_core.media.audio import TensorAudio
from livetalk_core.media.video import VideoWriter
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd, Frames

SAMPLES = 14 * 640 - 100
SOUND = TensorAudio(torch.sin(torch.arange(SAMPLES) * 0.2)[None] * 0.3, 16_000)
INPUTS = {"portrait": "a", "seed": 3}


@pytest.fixture
def render(session, tmp_path) -> Render:
    return Render(session, tmp_path / "talk.mp4", 3, SOUND, INPUTS, {"prompt": '{"1": {}}'})


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def run_until_chunk(render: Render, chunk: int) -> None:
    """Stop, as a crash would between two frames, soon after a chunk's end."""
    events = render.run()
    next(event for event in events if isinstance(event, ChunkEnd) and event.chunk.index == chunk)
    next(events)
    events.close()


def test_length_sound_and_metadata(render):
    list(render.run())
    assert decoded(render.output).shape == (14, 32, 32, 3)
    with av.open(str(render.output)) as container:
        assert container.metadata["prompt"] == '{"1": {}}'
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert 0 <= samples - SAMPLES < 2 * 1024
    assert [file.name for file in render.output.parent.iterdir()] == ["talk.mp4"]


def test_frames_in_the_file_are_the_frames_made(render):
    """By their brightness: colour is stored at half the resolution."""
    made = torch.cat([event.pixels for event in render.run() if not isinstance(event, ChunkEnd)]).numpy()
    bt709 = np.array([0.2126, 0.7152, 0.0722])
    for frame, written in zip(made @ bt709, decoded(render.output) @ bt709, strict=True):
        assert np.corrcoef(frame.ravel(), written.ravel())[0, 1] > 0.98


def test_on_a_cpu_only_the_thread_of_the_model_computes(render, monkeypatch):
    threads = set()

    def pixels(frames: Frames) -> torch.Tensor:
        threads.add(threading.current_thread())
        return ((frames.frames + 1) * 127.5).byte().permute(1, 2, 3, 0)

    monkeypatch.setattr(Frames, "pixels", property(pixels))
    list(render.run())
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("chunk", [0, 1])
def test_resumed_equals_uninterrupted(render, tmp_path, chunk):
    list(render.run())
    stopped = replace(render, output=tmp_path / "stopped.mp4")
    run_until_chunk(stopped, chunk)
    partial = tmp_path / "stopped.partial.mp4"
    assert len(decoded(partial)) == stopped.session.plan.chunk(chunk).stop
    list(replace(stopped, resume=True).run())
    assert stopped.output.read_bytes() == render.output.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stopped.mp4", "talk.mp4"]


class Stopped(Exception):
    pass


def ahead_with(render, on_step, output):
    return replace(render, session=replace(render.session, ahead=True, on_step=on_step), output=output)


def test_working_ahead_the_next_chunk_is_begun_before_the_last_is_on_the_disk(render, tmp_path, monkeypatch):
    events = list(render.run())
    steps, waited, begun = [], [], threading.Event()
    end_chunk = VideoWriter.end_chunk

    def on_step(_):
        steps.append(len(waited))
        if len(steps) > render.session.stream.steps:
            begun.set()

    def slow_end(writer):
        if not waited:
            waited.append(begun.wait(30))
        return end_chunk(writer)

    monkeypatch.setattr(VideoWriter, "end_chunk", slow_end)
    ahead = ahead_with(render, on_step, tmp_path / "ahead.mp4")
    again = list(ahead.run())
    assert waited == [True], "the second chunk's first step comes while the first chunk is being ended"
    assert [(type(event), event.chunk) for event in again] == [(type(event), event.chunk) for event in events]
    assert ahead.output.read_bytes() == render.output.read_bytes()


def test_working_ahead_a_chunk_that_fails_leaves_the_one_before_it_whole(render, tmp_path):
    list(render.run())
    steps = itertools.count()

    def on_step(_):
        if next(steps) == render.session.stream.steps:
            raise Stopped

    stopped = ahead_with(render, on_step, tmp_path / "stopped.mp4")
    with pytest.raises(Stopped):
        list(stopped.run())
    assert len(decoded(tmp_path / "stopped.partial.mp4")) == stopped.session.plan.chunk(0).stop
    list(replace(render, output=stopped.output, resume=True).run())
    assert stopped.output.read_bytes() == render.output.read_bytes()


def test_a_corrected_render_resumed_equals_the_uninterrupted_one(render, tmp_path):
    correction = CorrectionConfig(interval=1, lookback=1, threshold=0.0, strength=1.0)
    session = replace(render.session, stream=replace(render.session.stream, correction=correction))
    whole = replace(render, session=session, output=tmp_path / "whole.mp4")
    stopped = replace(whole, output=tmp_path / "stopped.mp4")
    list(whole.run())
    run_until_chunk(stopped, 0)
    list(replace(stopped, resume=True).run())
    assert stopped.output.read_bytes() == whole.output.read_bytes()


def test_stopped_twice(render, tmp_path):
    list(render.run())
    stopped = replace(render, output=tmp_path / "stopped.mp4", resume=True)
    run_until_chunk(stopped, 0)
    run_until_chunk(stopped, 1)
    list(stopped.run())
    assert np.array_equal(decoded(stopped.output), decoded(render.output))


@pytest.mark.parametrize("ahead", [False, True])
def test_stopped_while_it_finishes(render, tmp_path, ahead):
    list(render.run())
    stopped = replace(render, output=tmp_path / "stopped.mp4", on_packet=pytest.fail)
    with pytest.raises(pytest.fail.Exception):
        list(stopped.run())
    assert len(decoded(tmp_path / "stopped.partial.mp4")) == 14
    goes_on = replace(stopped.session, ahead=ahead)
    assert not list(replace(render, session=goes_on, output=stopped.output, resume=True).run()), "only the copy is left"
    assert stopped.output.read_bytes() == render.output.read_bytes()


def test_killed_between_the_two_files_of_the_sidecar(render, tmp_path):
    """The tensors are one chunk ahead of the description: the older state is still among them."""
    list(render.run())
    stopped = replace(render, output=tmp_path / "stopped.mp4")
    run_until_chunk(stopped, 0)
    description = (tmp_path / "stopped.partial.json").read_bytes()
    run_until_chunk(replace(stopped, resume=True), 1)
    (tmp_path / "stopped.partial.json").write_bytes(description)
    list(replace(stopped, resume=True).run())
    assert np.array_equal(decoded(stopped.output), decoded(render.output))


def test_an_unfinished_render_is_not_overwritten_unasked(render):
    run_until_chunk(render, 0)
    with pytest.raises(OutputError, match="unfinished render; --resume goes on"):
        next(render.run())
    list(replace(render, overwrite=True).run())
    assert len(decoded(render.output)) == 14


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_render_at_work_is_left_alone(render, options):
    """From its first frame on, when there is no sidecar yet."""
    events = render.run()
    next(events)
    with pytest.raises(OutputError, match="is being written by another render"):
        next(replace(render, **options).run())
    list(events)
    assert len(decoded(render.output)) == 14


def test_a_finished_video_is_not_overwritten_unasked(render):
    list(render.run())
    with pytest.raises(OutputError, match=r"talk\.mp4 exists"):
        next(render.run())


def test_resume_with_nothing_to_resume_starts_anew(render):
    list(replace(render, resume=True).run())
    assert len(decoded(render.output)) == 14


@pytest.mark.parametrize("seed", [LARGEST_SEED, -LARGEST_SEED])
def test_every_seed_can_be_resumed(render, seed):
    render = replace(render, seed=seed)
    run_until_chunk(render, 0)
    events = list(replace(render, resume=True).run())
    assert isinstance(events[0], Frames) and events[0].chunk.index == 1
    assert len(decoded(render.output)) == 14


def test_other_inputs_are_named(render):
    run_until_chunk(render, 0)
    changed = replace(render, inputs={**INPUTS, "seed": 4}, resume=True)
    with pytest.raises(ResumeError, match="another seed"):
        next(changed.run())
    assert render.output.with_suffix(".partial.mp4").exists()


@pytest.mark.parametrize("damage", [
    {"format": 3}, {"format": True}, {"seed": "3"}, {"seed": 1e300}, {"seed": 2**70}, {"next_chunk": "1"},
    {"next_chunk": 5}, {"next_chunk": -1}, {"next_chunk": True}, {"next_chunk": None}, {"inputs": [1]}, {"means": None},
    {"video": {}}, {"video": [1]}, {"video": {"bytes": "9"}}, {"video": {"bytes": -1, "frames": 5, "chunks": 1}},
    {"video": {"bytes": 9, "frames": 6, "chunks": 1}}, {"video": {"bytes": 9, "frames": 5, "chunks": 1, "more": 1}},
])  # fmt: skip
def test_a_damaged_sidecar_is_refused_and_nothing_is_lost(render, damage):
    run_until_chunk(render, 0)
    partial = render.output.with_suffix(".partial.mp4")
    before = partial.read_bytes()
    said = json.loads(partial.with_suffix(".json").read_text())
    partial.with_suffix(".json").write_text(json.dumps({**said, **damage}))
    with pytest.raises(ResumeError, match="cannot be read"):
        next(replace(render, resume=True).run())
    assert partial.read_bytes() == before


def test_what_has_no_sidecar_of_ours_is_not_resumed_and_not_deleted(render):
    run_until_chunk(render, 0)
    partial = render.output.with_suffix(".partial.mp4")
    before = partial.read_bytes()
    for damage in ("", "{", "[]", '{"inputs": {}}'):
        partial.with_suffix(".json").write_text(damage)
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(TakenError, match="in the way"):
                next(replace(render, **options).run())
    assert partial.read_bytes() == before


def test_other_means_are_said_and_go_on(render, caplog):
    begun = replace(render, means={"devices": "cuda", "precision": "float32"})
    run_until_chunk(begun, 0)
    list(replace(begun, means={"devices": "cpu x2", "precision": "float32"}, resume=True).run())
    assert [record.getMessage() for record in caplog.records] == [
        "the render began with devices cuda, now cpu x2: it goes on, equal but for rounding"
    ]
    assert len(decoded(render.output)) == 14


def test_stopping_before_the_first_chunk_leaves_nothing(render, tmp_path):
    events = render.run()
    list(itertools.islice(events, 1))
    events.close()
    assert list(tmp_path.iterdir()) == []


def test_state_beside_the_partial_is_small(render, tmp_path):
    run_until_chunk(render, 1)
    assert (tmp_path / "talk.partial.safetensors").stat().st_size < 20_000
    assert json.loads((tmp_path / "talk.partial.json").read_text())["next_chunk"] == 2


def test_a_missing_folder_is_named_before_work_begins(render, tmp_path):
    with pytest.raises(OutputError, match="create the folder first"):
        next(replace(render, output=tmp_path / "nowhere" / "talk.mp4").run())
