"""Real workers under a real render: the same video as one process, and no finished chunk is lost when one dies."""

import os
import signal
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from faulty_fleets import processes_of, wait_until_gone

from livetalk_core.cli import main
from livetalk_core.config import Guidance
from livetalk_core.errors import WorkerError
from livetalk_core.generate import Settings, prepare
from livetalk_core.media.video import partial_path
from livetalk_core.parallel.fleet import Limits, local_fleet
from livetalk_core.streaming.fleet_engine import engine_setup
from livetalk_core.streaming.session import ChunkEnd, Frames

PATIENT = Limits(start=900, silence=60, patience=900, floor=300)
"""On a loaded machine these renders take minutes."""
PORTRAIT = Path(__file__).resolve().parents[2] / "demo" / "portrait.png"


@pytest.fixture
def settings(tmp_path):
    """`settings(name, fleet)`: 2 s of sound, two chunks, in the smallest picture."""
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(32_000) * 0.1) * 9000).astype("<i2").tobytes())

    def make(name, fleet=None, **others):
        output = tmp_path / f"{name}.mp4"
        return Settings(PORTRAIT, tmp_path / "speech.wav", output, size=(64, 64), steps=2, fleet=fleet, **others)

    return make


@pytest.fixture(scope="module")
def fleet():
    with local_fleet(["cpu", "cpu"], "engine", fields=engine_setup("nano", torch.float32), limits=PATIENT) as fleet:
        yield fleet


def frames_of(events):
    return torch.cat([event.frames for event in events if isinstance(event, Frames)], dim=1)


def playable(path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.parametrize("guidance", [None, Guidance(3.0, 2.0)])
def test_frames_are_those_of_one_process(settings, fleet, guidance):
    renders = [prepare(settings(*of, guidance=guidance))[0] for of in (("one",), ("two", fleet))]
    alone, together = (frames_of(render.run()) for render in renders)
    assert (alone - together).abs().max() <= 2e-3  # of -1..1


def test_a_finished_chunk_outlives_a_worker_and_the_render_goes_on(settings, fleet):
    render, _ = prepare(settings("talk", fleet))
    processes = processes_of(fleet)
    with pytest.raises(WorkerError, match=r"worker 1 \(.*\) was killed by SIGKILL"):
        for event in render.run():
            if isinstance(event, ChunkEnd):
                os.kill(processes[1], signal.SIGKILL)
    assert wait_until_gone(processes) == []
    assert playable(partial_path(render.output)) >= 28
    again, _ = prepare(settings("talk", fleet, resume=True))
    list(again.run())
    assert playable(again.output) == 50


def test_the_command_line_takes_devices(settings, capsys):
    given = settings("line")
    inputs = ["--image", str(given.image), "--audio", str(given.audio), "--output", str(given.output)]
    options = ["--size", "64x64", "--steps", "1", "--devices", "cpu x2", "--shard-weights"]
    assert main(["generate", *inputs, *options]) == 0
    assert "on cpu, cpu" in capsys.readouterr().err
    assert playable(given.output) == 50
    assert main(["generate", *inputs, "--overwrite", "--devices", "cuda x99"]) == 1
    assert "the most that can work" in (err := capsys.readouterr().err) or "cpu x2 for trying out" in err
