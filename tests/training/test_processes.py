"""Several processes train as one does: the same losses, and each other's checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from livetalk_core.checkpoints import nano
from livetalk_core.training.data import TakeSource
from livetalk_core.training.keeping import averaged, newest
from livetalk_core.training.latents import Encoders, Preparation, save_texts
from livetalk_core.training.speech import SpeechFolder

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("nano_processes.py")
STEPS = 20


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    time = torch.arange(16_000 * 4) / 16_000
    sound = 9000 * torch.sin(time * 3000) * ((time * 2).long() % 2)
    source = TakeSource(SpeechFolder([sound.short().numpy()]), seed=3)
    folder = tmp_path_factory.mktemp("pool")
    encoders = Encoders(
        nano.vae("cpu", torch.float32), nano.audio_encoder("cpu"), nano.image_encoder("cpu", torch.float32)
    )
    list(Preparation(3, ((32, 32),), windows=2, shard=2).fill(folder, source.scene, encoders))
    save_texts(folder, [torch.ones(5, 32), torch.zeros(7, 32)])
    return folder


def train(stage: str, pool: Path, folder: Path, steps: int, processes: int) -> list[float]:
    """The losses of a run's steps, those of all its processes together."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [
        sys.executable,
        *(launch if processes > 1 else []),
        str(SCRIPT),
        stage,
        str(pool),
        str(folder),
        str(steps),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [json.loads(line)["loss"] for line in (folder / "record.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [("adapt", "transformer"), ("distill", "student")])
def test_two_and_four_processes_have_the_losses_of_one(pool, tmp_path, stage, name):
    alone = train(stage, pool, tmp_path / "1", STEPS, 1)
    for processes in (2, 4):
        folder = tmp_path / str(processes)
        assert train(stage, pool, folder, STEPS, processes) == pytest.approx(alone, abs=1e-5, rel=2e-5)  # of six digits
        one, other = averaged(tmp_path / "1", name), averaged(folder, name)
        assert one.keys() == other.keys()
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-4


def test_a_run_goes_on_with_another_number_of_processes(pool, tmp_path):
    """Saved by two, taken up by one and by two; the weights that are read are those that were written."""
    folder = tmp_path / "run"
    train("adapt", pool, folder, 2, 2)
    written = newest(folder)
    assert written is not None and (written / "shards").is_dir() and not list(folder.glob("*.part"))
    whole = train("adapt", pool, tmp_path / "whole", 4, 1)
    assert train("adapt", pool, folder, 4, 1) == pytest.approx(whole, abs=1e-5)
