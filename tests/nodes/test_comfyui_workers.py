"""Workers under a real ComfyUI: the user cancels, and a worker is killed, in the middle of a render."""

import os
import signal
import socket
import subprocess
import time

import av
import numpy as np
import psutil
import pytest
import torch

from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.parallel.launch import LOOPBACK
from livetalk_core.presets import PRESETS
from tests.nodes.comfy_server import FRAMES, PYTHON, ROOT, ComfyServer
from tests.nodes.workflow import load, named, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

FIRST, NEW, STEPS = 33, 28, 4
"""Frames of the first chunk, new ones of each further one, denoising steps of each."""
SECONDS = 600
SECRET = "a secret of this test's workers"


@pytest.fixture(scope="module")
def server(comfyui, base):
    """A server whose workers are gone when it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVETALK_SECRET", SECRET)
        running = ComfyServer(comfyui, base)
    yield running
    left = workers_of(running)
    running.close()
    assert psutil.wait_procs(left, timeout=30)[1] == []


@pytest.fixture
def render(server):
    """`render(name, on_event)`: the quick start's talk on two workers, small; it goes on where it can."""
    prompt = to_prompt(load(named("livetalk_quick_start")), server.get("object_info"))
    ids = {node["class_type"]: number for number, node in prompt.items()}
    prompt[ids["LiveTalkAvatar"]]["inputs"] |= {"width": 64, "height": 64}
    inputs = prompt[ids["LiveTalkRender"]]["inputs"]
    spread = {"model": inputs["model"], "devices": "cpu x2", "shard_weights": False}
    prompt["devices"] = {"class_type": "LiveTalkDevices", "inputs": spread}

    def run(name, on_event=lambda _: None, **others):
        spread.update(others)
        inputs.update(model=["devices", 0], steps=STEPS, resume=True, filename_prefix=f"video/{name}")
        outcome = server.run(prompt, on_event, timeout=SECONDS)
        assert not outcome.error or outcome.error["node_id"] == ids["LiveTalkRender"]
        return outcome

    return run


def workers_of(server):
    """The server's worker processes that run, by rank."""
    children = psutil.Process(server.process.pid).children()
    commands = [(child, child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE]
    workers = {int(words[words.index("--rank") + 1]): child for child, words in commands if "--rank" in words}
    return [workers[rank] for rank in sorted(workers)]


def playable(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def pixels(path):
    """All frames of a video, [n,H,W,3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def after_first_chunk(act):
    """An `on_event` that calls `act` once, with the progress so far, as soon as it has passed the first chunk.

    ComfyUI tells of no more than some steps a second.
    """
    done = []

    def on_event(outcome):
        if not done and outcome.progress and outcome.progress[-1][1] > STEPS + 1:
            done.append(True)
            act(outcome)

    return on_event


def finished(server, name):
    """The finished video, and nothing beside it."""
    folder = server.base / "output" / "video"
    assert [path.name for path in folder.glob(f"{name}_*")] == [f"{name}_00001_.mp4"]
    return folder / f"{name}_00001_.mp4"


def test_cancel_stops_within_a_step_and_the_workers_stay(server, render):
    processes, steps = [], []

    def cancel(outcome):
        processes.extend(workers_of(server))
        steps.append(outcome.progress[-1][1])
        server.interrupt()

    outcome = render("cancelled", after_first_chunk(cancel))
    assert outcome.interrupted and not outcome.error
    assert steps[0] <= outcome.progress[-1][1] <= steps[0] + STEPS
    partial = server.base / "output" / "video" / "cancelled_00001_.partial.mp4"
    assert playable(partial) in range(FIRST, FRAMES, NEW)
    assert len(processes) == 2 and workers_of(server) == processes

    outcome = render("cancelled")
    assert not outcome.error and not outcome.interrupted, outcome.error
    assert outcome.progress[0][1] > STEPS, "it goes on with the second chunk"
    assert workers_of(server) == processes
    assert playable(finished(server, "cancelled")) == FRAMES


def test_blocks_that_are_streamed_to_the_workers_change_no_frame(server, render):
    small = PRESETS["nano"].sized((64, 64))
    most = residence(small, torch.float32, Placement(), (2, 1)).total - 1
    assert residence(small, torch.float32, Placement(memory=most), (2, 1)).streamed
    films = []
    for name, memory in (("kept", ""), ("streamed", f"{most / 2**20}M")):
        outcome = render(name, mesh="ulysses=2", memory=memory)
        assert not outcome.error, outcome.error
        films.append(pixels(finished(server, name)))
    assert len(films[0]) == FRAMES and np.array_equal(*films)


def test_unload_models_ends_the_workers_and_the_next_prompt_starts_new_ones(server, render):
    assert render("freed", after_first_chunk(lambda _: server.interrupt())).interrupted
    processes = workers_of(server)
    assert len(processes) == 2
    server.post("free", {"unload_models": True})
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    outcome = render("freed")
    assert not outcome.error, outcome.error
    assert playable(finished(server, "freed")) == FRAMES
    assert len(workers_of(server)) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_named_on_the_node_and_the_next_prompt_succeeds(server, render, rank):
    processes, killed = [], []

    def kill(_):
        processes.extend(workers_of(server))
        killed.append(time.monotonic())
        os.kill(processes[rank].pid, signal.SIGKILL)

    name = f"killed_{rank}"
    outcome = render(name, after_first_chunk(kill))
    assert killed, outcome.error
    assert time.monotonic() - killed[0] < 30
    message = outcome.error["exception_message"]
    assert f"worker {rank} (cpu, process {processes[rank].pid}) was killed by SIGKILL" in message
    assert "the next job starts new ones" in message
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    partial = server.base / "output" / "video" / f"{name}_00001_.partial.mp4"
    assert playable(partial) in range(FIRST, FRAMES, NEW)

    outcome = render(name)
    assert not outcome.error, outcome.error
    assert playable(finished(server, name)) == FRAMES
    assert len(workers_of(server)) == 2 and workers_of(server) != processes


@pytest.fixture
def staying():
    """`staying(port)`: two workers as other hosts have them, that stay; they end with the test."""
    processes = []

    def start(port):
        connect = ["--connect", f"{LOOPBACK}:{port}", "--device", "cpu", "--threads", "1", "--stay"]
        environment = {**os.environ, "LIVETALK_SECRET": SECRET, "GLOO_SOCKET_IFNAME": "lo"}
        for _ in range(2):
            command = [PYTHON, "-m", "livetalk_core", "worker", *connect]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment))

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.skipif(
    subprocess.run([PYTHON, "-c", "import cryptography"], capture_output=True, check=False).returncode != 0,
    reason="ComfyUI's Python has no cryptography, which livetalk[hosts] brings",
)
def test_workers_of_other_hosts_render_with_a_mesh_and_fp8(server, render, staying):
    """They come from outside: the server starts none."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    staying(port)
    outcome = render("hosts", hosts=f"{LOOPBACK}:{port} x2", mesh="ring=2", send_fp8=True)
    assert not outcome.error, outcome.error
    assert playable(finished(server, "hosts")) == FRAMES
    assert workers_of(server) == []
    server.post("free", {"unload_models": True})
