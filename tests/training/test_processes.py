"""Several processes train as one does: the same losses, and each other's checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from livetalk_core.checkpoints import nano
from livetalk_core.training.data import TakeSource
from livetalk_core.training.keeping import averaged, newest
from livetalk_core.training.latents import Encoders, Preparation, save_texts
from livetalk_core.training.sharding import SHARDS, read_whole
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


def launch(processes: int, stage: str, pool: Path, folder: Path, steps: int, *copy: Path) -> None:
    """Run nano_processes.py."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(SCRIPT),
        stage,
        str(pool),
        str(folder),
        str(steps),
        *map(str, copy),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def train(stage: str, pool: Path, folder: Path, steps: int, processes: int) -> list[float]:
    """The losses of a run's steps, those of all its processes together."""
    launch(processes, stage, pool, folder, steps)
    return [json.loads(line)["loss"] for line in (folder / "record.jsonl").read_text().splitlines()]


def kept(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimiser of stage 1's newest checkpoint, of one process or several."""
    place = newest(folder)
    assert place is not None
    if (place / SHARDS).is_dir():
        return read_whole(place / SHARDS, "")
    files = {"weights": "", "average": ".average", "optimizer": ".optimizer"}
    return {
        f"transformer/{kind}/{key}": values
        for kind, end in files.items()
        for key, values in load_file(place / f"transformer{end}.safetensors").items()
    }


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
    folder = tmp_path / "run"
    train("adapt", pool, folder, 2, 2)
    written = newest(folder)
    assert written is not None and (written / "shards").is_dir() and not list(folder.glob("*.part"))
    whole = train("adapt", pool, tmp_path / "whole", 4, 1)
    assert train("adapt", pool, folder, 4, 1) == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
def test_what_another_number_of_processes_takes_up_is_what_was_written_bit_for_bit(pool, tmp_path):
    """From two processes' shares to one's whole tensors, to four's shares: weights, averages and both moments."""
    folders = [tmp_path / name for name in ("two", "one", "four")]
    for folder in folders:
        folder.mkdir()
    launch(2, "adapt", pool, folders[0], 2)
    launch(1, "adapt", pool, folders[0], 2, folders[1])
    launch(4, "adapt", pool, folders[1], 2, folders[2])
    written, *copies = map(kept, folders)
    assert {key.split("/")[1] for key in written} == {"weights", "average", "optimizer"}
    assert any(float(values.abs().max()) > 0 for key, values in written.items() if key.endswith("exp_avg_sq"))
    for taken in copies:
        assert taken.keys() == written.keys()
        assert all(torch.equal(taken[key], written[key]) for key in written)
