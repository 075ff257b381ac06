"""A real worker goes wrong in the middle of each stage of a render: it is named, no finished chunk is lost."""

import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from faulty_fleets import LIMITS, Button, playable, processes_of, wait_until_gone

from livetalk_core.commands.prepare import prepare
from livetalk_core.errors import Cancelled, NumbersError, WorkerError
from livetalk_core.media.place import partial_path
from livetalk_core.parallel.fleet import Fleet, Limits
from livetalk_core.parallel.launch import LocalWorkers
from livetalk_core.streaming.fleet_engine import FleetEngine, Ways, engine_setup
from livetalk_core.streaming.session import ChunkEnd

PROGRAM = (sys.executable, str(Path(__file__).with_name("staged_worker.py")))
PATIENT = Limits(start=900, silence=LIMITS.silence, patience=900, floor=300)
FIRST_CHUNK, ALL_FRAMES = 28, 50
SECONDS = 60
"""A loaded machine's; the silence takes 20 of them."""


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    """Where the workers look for what they are to do wrong."""
    return tmp_path_factory.mktemp("order") / "order"


@pytest.fixture(scope="module")
def fleet(order):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVETALK_TEST_ORDER", str(order))
        setup = engine_setup("nano", torch.float32, ways=Ways(pieces=3))  # as on GPUs, and a rank has three heads
        with Fleet("test", lambda: LocalWorkers(["cpu"] * 2, PROGRAM), "engine", setup, limits=PATIENT) as fleet:
            yield fleet


def seconds_since(order) -> float:
    return time.time() - order.with_suffix(".done").stat().st_mtime


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_is_killed_while_it_loads(fleet, order, rank):
    fleet.close()
    order.write_text(f"load {rank} SIGKILL")
    with pytest.raises(WorkerError, match=rf"worker {rank} \(.*\) was killed by SIGKILL.* during set-up"):
        fleet.start()
    assert seconds_since(order) < SECONDS and not fleet.members
    fleet.start()
    assert len(fleet.members) == 2


@pytest.mark.parametrize(
    ("stage", "rank", "fault", "message"),
    [
        ("denoise", 0, "SIGKILL", "was killed by SIGKILL.* during denoise"),
        ("denoise", 1, "SIGKILL", "was killed by SIGKILL.* during denoise"),
        ("denoise", 1, "memory", "failed during denoise: OutOfMemoryError: .*ran out of memory"),
        ("piece", 1, "SIGKILL", "was killed by SIGKILL.* during denoise"),
        ("piece", 0, "memory", "failed during denoise: OutOfMemoryError: .*ran out of memory"),
        ("decode", 0, "SIGKILL", "was killed by SIGKILL.* during decode"),
        ("decode", 1, "SIGKILL", "was killed by SIGKILL.* during decode"),
        ("decode", 0, "raise", "failed during decode: RuntimeError: something broke"),
        ("encode", 0, "SIGKILL", "was killed by SIGKILL.* during encode"),
        ("encode", 1, "SIGKILL", "was killed by SIGKILL.* during encode"),
        ("encode", 1, "SIGSTOP", "gave no sign of life for 20 s"),
    ],
)
def test_a_finished_chunk_outlives_a_worker_and_the_render_goes_on(settings, fleet, order, stage, rank, fault, message):
    render, _ = prepare(settings("talk", fleet))
    processes = processes_of(fleet)
    with pytest.raises(WorkerError, match=rf"worker {rank} \(cpu, process \d+\) {message}"):
        for event in render.run():
            if isinstance(event, ChunkEnd):
                order.write_text(f"{stage} {rank} {fault}")
    assert seconds_since(order) < SECONDS
    assert wait_until_gone(processes) == []
    assert playable(partial_path(render.output)) >= FIRST_CHUNK
    again, _ = prepare(settings("talk", fleet, resume=True))
    list(again.run())
    assert playable(again.output) == ALL_FRAMES


@pytest.mark.parametrize(
    ("stage", "rank", "numbers"),
    [
        ("sound", 1, "latents"),
        ("condition", 1, "latents"),
        ("denoise", 0, "latents"),
        ("denoise", 1, "latents"),
        ("decode", 1, "frames"),
        ("color", 0, "matched colours"),
        ("encode", 1, "motion latents it hands on"),
    ],
)
def test_a_nan_in_a_worker_stops_the_render_at_its_chunk(settings, fleet, order, stage, rank, numbers):
    """Nothing of that chunk is kept, and what was made before it plays.

    The workers are there for the next job, but where one alone has the NaN (a single frame's colours are not shared):
    the others have gone on, so all are ended.
    """
    fleet.start()
    render, _ = prepare(settings("nan", fleet))
    render.session.prompts, processes = {1: render.session.avatar.text[:2]}, processes_of(fleet)
    with pytest.raises(WorkerError if stage == "color" else NumbersError) as caught:
        for event in render.run():
            if isinstance(event, ChunkEnd):
                order.write_text(f"{stage}:NaN {rank} now")
    message = str(caught.value)
    assert f"chunk 2 (from 1.32 s on): its {numbers} are not finite" in message and "\n" not in message
    assert playable(partial_path(render.output)) == 33
    assert stage == "color" or processes_of(fleet) == processes


def test_workers_that_end_between_two_jobs_are_given_all_anew(settings, fleet):
    """The avatar, too, which is sent with its first chunk only."""
    render, _ = prepare(settings("idle", fleet))
    for event in render.run():
        if isinstance(event, ChunkEnd):
            fleet.close()
    assert playable(render.output) == ALL_FRAMES


def test_the_user_can_stop_while_frames_are_decoded(fleet):
    engine, latent = FleetEngine(fleet), torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = torch.cat(list(engine.decode(latent)), dim=1)
    processes, button = processes_of(fleet), Button()
    fleet.poll = button
    with closing(engine.decode(latent)) as groups, pytest.raises(Cancelled):
        for _ in groups:
            button.pressed = True
    fleet.poll = lambda: None
    assert torch.equal(torch.cat(list(engine.decode(latent)), dim=1), whole)
    assert processes_of(fleet) == processes
