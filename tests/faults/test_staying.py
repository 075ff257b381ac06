"""A worker that stays keeps its weights for the next render where they are the same, without what LoRAs did to them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from faulty_fleets import LIMITS, processes_of, wait_until_gone
from test_remote import ADDRESSES, SECRET, free_port
from test_render import LORA, a_chunk

from livetalk_core.commands import worker
from livetalk_core.parallel.fleet import remote_fleet
from livetalk_core.streaming.fleet_engine import NO_PATCHES, FleetEngine, Patches, Ways, engine_setup
from livetalk_core.streaming.kept_weights import weights_of
from livetalk_core.streaming.session import ignore_step

CPU = torch.device("cpu")


def test_weights_are_loaded_once_for_many_renders(tmp_path):
    port, loads = free_port(), tmp_path / "loads"
    environment = {**os.environ, "LIVETALK_SECRET": SECRET.decode(), "LIVETALK_TEST_LOADS": str(loads)}
    program = [sys.executable, str(Path(__file__).with_name("staying_worker.py")), "--device", "cpu"]
    process = subprocess.Popen([*program, "--connect", f"{ADDRESSES[0]}:{port}"], env=environment)

    def render(dtype, patches=NO_PATCHES):
        setup = engine_setup("nano", dtype)
        with remote_fleet((ADDRESSES[0], port), 1, SECRET, "engine", fields=setup, limits=LIMITS) as fleet:
            latent = FleetEngine(fleet, patches=patches).denoise(*a_chunk(), ignore_step)
            assert processes_of(fleet) == [process.pid]
        return latent

    try:
        plain = render(torch.float32)
        assert (render(torch.float32, Patches("a LoRA", LORA)) - plain).abs().max() > 1e-2
        assert torch.equal(render(torch.float32), plain)
        assert loads.read_text().split() == ["loaded"]
        render(torch.bfloat16)
        assert loads.read_text().split() == ["loaded"] * 2
    finally:
        process.kill()
        process.wait()
    assert wait_until_gone([process.pid]) == []


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def key(path, **changes):
    return weights_of({**engine_setup(str(path), torch.float32), **changes}, CPU)


@pytest.mark.parametrize("name", ["", "model.safetensors", "model.safetensors.index.json"])
def test_weights_that_have_changed_are_others(model, name):
    before = key(model / name)
    assert key(model / name) == before
    (model / "model.safetensors").write_bytes(b"other weights")
    assert key(model / name) != before


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"ways": list(Ways(fp8=True))}, {"model": "nano"}])
def test_what_they_are_on_the_device_tells_them_apart(model, changes):
    assert key(model, **changes) not in (None, key(model))


KNOWING = [{"ways": list(ways)} for ways in (Ways(compiled=True), Ways(memory=9))]


@pytest.mark.parametrize("changes", [{"sharded": True}, *KNOWING])
def test_those_that_know_their_ranks_are_not_kept(model, changes):
    assert key(model, **changes) is None


def test_a_worker_that_stays_stopped_is_ended(monkeypatch):
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.1)
    process = subprocess.Popen(["sleep", "600"])
    os.kill(process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    worker.outlast(process)
    assert process.returncode == -signal.SIGKILL and time.monotonic() - begun >= 0.1 * worker.STOPPED_LOOKS


def test_one_that_goes_on_is_waited_for(monkeypatch):
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.1)
    process = subprocess.Popen(["sleep", "2"])
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(0.5, process.send_signal, [signal.SIGCONT]).start()
    worker.outlast(process)
    assert process.returncode == 0
