"""The training loop: batches by step number, one optimiser a network, checkpoints that resume exactly, a record.

Whatever a step depends on is decided by (seed, step): its batches, their noise, which network it trains. So a resumed
run has the losses of the uninterrupted one, and several processes, which share an update's batches out, those of one.
Each works on the device that accelerate gives it; weights are split over them (`sharding`).
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError, LiveTalkError
from ..files import make_folder
from .chance import generator_of
from .keeping import Keeper, Learner, newest
from .muon import Muon
from .sharding import averaged_over_processes, clip, place

OPTIMIZERS = {"adamw": torch.optim.AdamW, "muon": Muon}
RECORD = "record.jsonl"

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


class TrainingError(LiveTalkError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Schedule:
    """How a run is trained. `steps` are optimiser updates; the rate rises over `warmup` steps and falls as a cosine
    to `final_rate` times `rate`. `accumulate` batches a process make one update; `ema` is the decay of
    the averaged weights. Every `held_every` updates the loss on takes that are held out is recorded (0: never)."""

    steps: int
    optimizer: str = "adamw"
    rate: float = 1e-3
    final_rate: float = 0.1
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    ema: float = 0.999
    seed: int = 0
    workers: int = 1
    save_every: int = 200
    log_every: int = 10
    sample_every: int = 0
    held_every: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    """Of networks that learn at another rate than `rate`, by name; they rise and fall alike."""

    def __post_init__(self) -> None:
        if min(self.steps, self.accumulate, self.save_every, self.log_every) < 1:
            raise InputError("steps, accumulate, save_every and log_every must be at least 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r}; there are {', '.join(OPTIMIZERS)}")

    def rate_at(self, step: int) -> float:
        """The learning rate of update `step`, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return self.rate * rise * (self.final_rate + (1 - self.final_rate) * fall)

    def rate_of(self, name: str, step: int) -> float:
        """The learning rate of a network in update `step`."""
        return self.rate_at(step) * (self.rates[name] / self.rate if name in self.rates else 1.0)


class Task(Protocol):
    """What is learned."""

    networks: dict[str, Any]
    """The trained networks, by name."""
    frozen: Mapping[str, Any] = MappingProxyType({})
    """Networks that a step computes with and that stay as they are; None where one is not needed."""
    averaged: tuple[str, ...] | None = None
    """The networks whose weights are averaged, which are those that are exported; None: all."""

    def batch(self, step: int) -> Batch:
        """Data of one step; runs in worker processes, so it touches no trained network."""
        ...

    def trains(self, step: int) -> tuple[str, ...]:
        """The networks that this step updates."""
        ...

    def draw_of(self, step: int) -> int:
        """The number of the draw that this step learns from: its own, unless steps share one."""
        return step

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """The loss to minimise, under `loss`, and whatever else is worth recording."""
        ...

    def sample(self, folder: Path, step: int) -> None:
        """Leave something to look at, if there is anything."""

    def held_out(self) -> Mapping[str, float]:
        """Losses on what is held out, always the same, if anything is."""
        return {}


class _Steps(Dataset[Batch]):
    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, index: int) -> Batch:
        torch.set_num_threads(1)
        return self.task.batch(index)


class Trainer:
    """Runs a task in a folder: `step-N` checkpoints, `record.jsonl`, samples."""

    def __init__(self, task: Task, schedule: Schedule, folder: Path, accelerator: Accelerator | None = None) -> None:
        self.task, self.schedule, self.folder = task, schedule, folder
        self.accelerator = accelerator or Accelerator()
        unknown = sorted(set(schedule.rates) - set(task.networks))
        if unknown:
            raise InputError(f"rates of the unknown {', '.join(unknown)}; trained are {', '.join(task.networks)}")
        for network in (*task.networks.values(), *task.frozen.values()):
            if network is not None:
                place(network, self.accelerator.device)
        averaged = task.networks if task.averaged is None else task.averaged
        self.learners = {
            name: Learner(network, self._optimizer(network), _copied(network) if name in averaged else {})
            for name, network in task.networks.items()
        }
        self.keeper = Keeper(folder)
        self.step = 0

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        schedule = self.schedule
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kind = OPTIMIZERS[schedule.optimizer]
        return kind(parameters, lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.weight_decay)

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one."""
        make_folder(self.folder)
        self.resume()
        started, done = time.monotonic(), self.step
        for batches in self._batches():
            losses = self._update(batches)
            self.step += 1
            if self.step % self.schedule.log_every == 0:
                pace = (time.monotonic() - started) / (self.step - done)
                self._record({"step": self.step, "seconds_a_step": round(pace, 3), **losses})
            if self.schedule.held_every and self.step % self.schedule.held_every == 0:
                self._record({"step": self.step, **self.task.held_out()})
            if self.schedule.sample_every and self.step % self.schedule.sample_every == 0:
                self.task.sample(self.folder, self.step)
            if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                self.save()
        self.keeper.finish()

    def _batches(self) -> Iterator[list[Batch]]:
        """The batches of each update that is still to do."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        draws = [self.task.draw_of(step) for step in range(self.step, self.schedule.steps)]
        parts = range(self.schedule.accumulate)
        numbers = [(draw * len(parts) + part) * ranks + rank for draw in draws for part in parts]
        workers = self.schedule.workers
        loader = DataLoader(
            _Steps(self.task), batch_size=None, sampler=numbers, num_workers=workers,
            prefetch_factor=4 if workers else None, multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        group: list[Batch] = []
        for batch in loader:
            group.append({name: values.to(self.accelerator.device) for name, values in batch.items()})
            if len(group) == self.schedule.accumulate:
                yield group
                group = []

    def _update(self, batches: list[Batch]) -> dict[str, Any]:
        names = self.task.trains(self.step)
        ranks, total = self.accelerator.num_processes, dict[str, float]()
        for index, batch in enumerate(batches):
            part = index * ranks + self.accelerator.process_index
            losses = self.task.losses(batch, self.step, generator_of("noise", self.schedule.seed, self.step, part, 0))
            (losses["loss"] / len(batches)).backward()
            for key, value in losses.items():
                total[key] = total.get(key, 0.0) + float(value.detach()) / len(batches)
        total = averaged_over_processes(total, self.accelerator.device)
        self._check("loss", total["loss"])
        for name in names:
            learner = self.learners[name]
            total[f"{name} gradient"] = clip(learner.network.parameters(), self.schedule.clip)
            self._check(f"gradient of {name}", total[f"{name} gradient"])
            for group in learner.optimizer.param_groups:
                group["lr"] = self.schedule.rate_of(name, self.step)
            learner.optimizer.step()
            self._average(learner)
        for learner in self.learners.values():
            learner.optimizer.zero_grad(set_to_none=True)
        return {"rate": self.schedule.rate_of(names[0], self.step), **total}

    @torch.no_grad()
    def _average(self, learner: Learner) -> None:
        """Move the averaged weights towards the new ones; the first steps weigh more."""
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        weights = dict(learner.network.named_parameters())
        for key, average in learner.average.items():
            average.lerp_(weights[key].detach(), 1 - decay)

    def _check(self, what: str, value: float) -> None:
        """Raise `TrainingError` for a number that would spoil the weights."""
        if not math.isfinite(value):
            self.keeper.finish()
            last = newest(self.folder)
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            raise TrainingError(
                f"the {what} of step {self.step} is {value}; {kept}: lower the rate, or look at the data"
            )

    def _record(self, row: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
            with (self.folder / RECORD).open("a") as file:
                file.write(json.dumps(rounded) + "\n")

    def save(self) -> None:
        """Write a checkpoint: complete, or not there at all."""
        self.keeper.save(self.step, self.learners)

    def resume(self) -> None:
        """Take up the newest checkpoint, if any."""
        self.step = self.keeper.resume(self.learners)
        self._forget_record()

    def _forget_record(self) -> None:
        """Drop rows of steps that will be done again."""
        record = self.folder / RECORD
        if self.accelerator.is_main_process and record.exists():
            rows = record.read_text().splitlines()
            record.write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] <= self.step))


@torch.no_grad()
def _copied(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's trained weights, or of this process's share of them."""
    return {key: weight.detach().clone() for key, weight in network.named_parameters() if weight.requires_grad}
