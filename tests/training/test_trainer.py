"""The training loop: it learns, resumes with the same losses, and stops at a loss that is no number."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from livetalk_core.errors import CheckpointError, InputError
from livetalk_core.training.chance import generator_of
from livetalk_core.training.keeping import _parts, averaged
from livetalk_core.training.muon import Muon, orthogonal
from livetalk_core.training.trainer import Schedule, Task, Trainer, TrainingError, newest

ROOT = Path(__file__).parents[2]


class Line(Task):
    """Learns y = 2x from noisy points; a second network, `bias`, is trained in every third step."""

    def __init__(self, poison: int = -1, edge: int = -1) -> None:
        torch.manual_seed(0)
        self.networks = {"slope": nn.Linear(4, 4), "bias": nn.Linear(1, 4)}
        self.poison, self.edge = poison, edge

    def trains(self, step: int) -> tuple[str, ...]:
        return ("bias",) if step % 3 == 2 else ("slope",)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {"x": torch.randn(8, 4, generator=generator_of("line", step))}

    def losses(self, batch, step, noise) -> dict[str, torch.Tensor]:
        x = batch["x"]
        y = 2 * x + 0.1 * torch.randn(x.shape, generator=noise)
        found = self.networks["slope"](x) + self.networks["bias"](torch.ones(8, 1))
        loss = (found - y).square().mean()
        if step == self.edge:
            loss = loss + (0 * loss).sqrt()  # a finite loss without a gradient
        return {"loss": loss * (float("nan") if step == self.poison else 1.0)}

    def sample(self, folder, step) -> None:
        (folder / f"sample-{step}.txt").write_text("seen")


def schedule(steps: int, **changes) -> Schedule:
    settings = {"rate": 0.1, "warmup": 2, "workers": 0, "save_every": 5, "log_every": 1, "sample_every": 10, "ema": 0.9}
    return Schedule(steps, **{**settings, **changes})


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "record.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(tmp_path, optimizer):
    Trainer(Line(), schedule(150, optimizer=optimizer), tmp_path).run()
    course = losses(tmp_path)
    assert len(course) == 150
    assert sum(course[-5:]) < 0.1 * sum(course[:5])
    assert (tmp_path / "sample-10.txt").exists()


def test_a_resumed_run_has_the_same_losses(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(Line(), schedule(20, optimizer="muon", accumulate=2), whole).run()
    with pytest.raises(TrainingError):
        Trainer(Line(poison=13), schedule(20, optimizer="muon", accumulate=2), parts).run()
    assert len(losses(parts)) == 13
    Trainer(Line(), schedule(20, optimizer="muon", accumulate=2), parts).run()
    assert losses(parts) == losses(whole)


def test_other_data_gives_other_losses(tmp_path):
    Trainer(Line(), schedule(10), tmp_path / "a").run()
    Trainer(Line(), schedule(10, seed=1), tmp_path / "b").run()
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_a_loss_that_is_no_number_names_step_and_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"step 7 is nan.*step-0000005"):
        Trainer(Line(poison=7), schedule(10), tmp_path).run()
    assert newest(tmp_path) == tmp_path / "step-0000005"
    assert not list(tmp_path.glob("*.part"))


def test_a_gradient_that_is_no_number_never_reaches_a_checkpoint(tmp_path):
    """In the last step before one is written."""
    with pytest.raises(TrainingError, match=r"gradient of slope of step 9 is nan.*step-0000005"):
        Trainer(Line(edge=9), schedule(10), tmp_path).run()
    assert newest(tmp_path) == tmp_path / "step-0000005"


def shared_out(folder) -> Path:
    """A run's newest checkpoint as several processes write it."""
    trainer = Trainer(Line(), schedule(15), folder)
    trainer.resume()
    place = newest(folder)
    state = {key: part for name, learner in trainer.learners.items() for key, part in _parts(name, learner).items()}
    for file in place.glob("*.safetensors"):
        file.unlink()
    dcp.save(state, checkpoint_id=place / "shards", no_dist=True)
    return place


@pytest.mark.parametrize("shared", [False, True])
def test_a_checkpoint_that_is_cut_off_is_named_and_the_one_before_it_goes_on(tmp_path, shared):
    Trainer(Line(), schedule(15), tmp_path / "whole").run()
    run = tmp_path / "run"
    with pytest.raises(TrainingError):
        Trainer(Line(poison=12), schedule(15), run).run()
    place = shared_out(run) if shared else newest(run)
    kept = {path: path.read_bytes() for path in place.rglob("*") if path.suffix in (".distcp", ".safetensors", ".json")}
    assert averaged(run, "slope")["weight"].shape == (4, 4)
    for path, data in kept.items():
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=r"step-0000010 is damaged \(.*remove it"):
            Trainer(Line(), schedule(15), run).run()
        path.write_bytes(data)
    shutil.rmtree(place)
    Trainer(Line(), schedule(15), run).run()
    assert losses(run) == losses(tmp_path / "whole")


def test_a_network_keeps_still_while_another_is_trained(tmp_path):
    task = Line()
    before = task.networks["bias"].weight.clone()
    Trainer(task, schedule(2), tmp_path).run()
    assert torch.equal(task.networks["bias"].weight, before)


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        Schedule(0)
    with pytest.raises(InputError, match="optimizer 'sgd'; there are adamw, muon"):
        Schedule(1, optimizer="sgd")


def test_the_rate_rises_and_falls():
    plan = Schedule(100, rate=1.0, final_rate=0.1, warmup=10)
    rates = [plan.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, abs=0.01)
    assert max(rates) == pytest.approx(1.0, abs=0.05)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_a_network_may_learn_at_a_rate_of_its_own(tmp_path):
    plan = schedule(3, rates={"bias": 0.02}, final_rate=1.0, warmup=0)
    Trainer(Line(), plan, tmp_path).run()
    rows = [json.loads(line)["rate"] for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert rows == pytest.approx([0.1, 0.1, 0.02]), "every third step is the bias's"
    with pytest.raises(InputError, match="unknown critic; trained are slope, bias"):
        Trainer(Line(), schedule(3, rates={"critic": 0.1}), tmp_path / "other")


def test_orthogonal_evens_out_singular_values():
    values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([1.0, 0.1, 0.05])) @ torch.randn(3, 5)))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_muon_decays_weights_and_leaves_out_what_has_no_gradient():
    weight, unused = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(2))
    optimizer = Muon([weight, unused], lr=0.1, weight_decay=1.0)
    (weight.sum() * 0).backward()
    optimizer.step()
    assert torch.allclose(weight, 0.9 * torch.eye(3))
    assert torch.equal(unused, torch.ones(2))


@pytest.mark.slow
def test_two_processes_resume_with_the_same_losses_and_train_on_twice_the_data(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, steps in ((whole, 10), (parts, 5), (parts, 10)):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        script = Path(__file__).with_name("two_processes.py")
        paths = os.pathsep.join([str(ROOT), str(script.parent)])
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*torchrun, str(script), str(folder), str(steps)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert losses(parts) == losses(whole)
    Trainer(Line(), schedule(10, final_rate=1.0, warmup=0), tmp_path / "alone").run()
    alone = losses(tmp_path / "alone")
    assert len(alone) == len(losses(whole))
    assert alone != losses(whole)
