"""The training loop: batches by step number, one optimiser a network, checkpoints that resume exactly, a record.

Whatever a step depends on is decided by (seed, step): its batch, its noise, which network it trains. So a resumed run
has the losses of the uninterrupted one. accelerate places networks on devices (one process, or several with FSDP).
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError, LiveTalkError
from .chance import generator_of
from .muon import Muon

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
OPTIMIZERS = {"adamw": torch.optim.AdamW, "muon": Muon}
RECORD = "record.jsonl"
KEPT = 2
"""Checkpoints that stay: the newest ones."""

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


class TrainingError(LiveTalkError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Schedule:
    """How a run is trained. `steps` are optimiser updates; the rate rises over `warmup` steps and falls as a cosine
    to `final_rate` times `rate`. `accumulate` batches make one update; `ema` is the decay of the averaged weights."""

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


class Task(Protocol):
    """What is learned."""

    networks: dict[str, Any]
    """The trained networks, by name."""

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
        prepared = {
            name: self.accelerator.prepare(network, self._optimizer(network)) for name, network in task.networks.items()
        }
        self.networks = {name: network for name, (network, _) in prepared.items()}
        self.optimizers = {name: optimizer.optimizer for name, (_, optimizer) in prepared.items()}
        task.networks = self.networks
        self.averages = {name: self._weights(name) for name in self.networks}
        self.step = 0

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        schedule = self.schedule
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        kind = OPTIMIZERS[schedule.optimizer]
        return kind(parameters, lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.weight_decay)

    @torch.no_grad()
    def _weights(self, name: str) -> dict[str, Tensor]:
        """A copy of a network's trained weights, or of this rank's share of them."""
        network = self.accelerator.unwrap_model(self.networks[name])
        return {key: weight.detach().clone() for key, weight in network.named_parameters() if weight.requires_grad}

    def run(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        started, done = time.monotonic(), self.step
        for batches in self._batches():
            losses = self._update(batches)
            self.step += 1
            if self.step % self.schedule.log_every == 0:
                pace = (time.monotonic() - started) / (self.step - done)
                self._record({"step": self.step, "seconds_a_step": round(pace, 3), **losses})
            if self.schedule.sample_every and self.step % self.schedule.sample_every == 0:
                self.task.sample(self.folder, self.step)
            if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                self.save()

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
        names, rate = self.task.trains(self.step), self.schedule.rate_at(self.step)
        total: dict[str, float] = {}
        for index, batch in enumerate(batches):
            noise = generator_of("noise", self.schedule.seed, self.step, index, self.accelerator.process_index)
            losses = self.task.losses(batch, self.step, noise)
            self._check("loss", float(losses["loss"].detach()))
            self.accelerator.backward(losses["loss"] / len(batches))
            for key, value in losses.items():
                total[key] = total.get(key, 0.0) + float(value.detach()) / len(batches)
        for name in names:
            norm = self.accelerator.clip_grad_norm_(self.networks[name].parameters(), self.schedule.clip)
            total[f"{name} gradient"] = 0.0 if norm is None else float(norm)
            self._check(f"gradient of {name}", total[f"{name} gradient"])
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate
            self.optimizers[name].step()
            self._average(name)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        return {"rate": rate, **total}

    @torch.no_grad()
    def _average(self, name: str) -> None:
        """Move the averaged weights towards the new ones; the first steps weigh more."""
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        weights = dict(self.accelerator.unwrap_model(self.networks[name]).named_parameters())
        for key, average in self.averages[name].items():
            average.lerp_(weights[key].detach(), 1 - decay)

    def _check(self, what: str, value: float) -> None:
        """Raise `TrainingError` for a number that would spoil the weights."""
        if not math.isfinite(value):
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
        target = self.folder / f"step-{self.step:07d}"
        temporary = target.with_name(target.name + ".part")
        tensors = {
            name: get_state_dict(self.networks[name], self.optimizers[name], options=WHOLE) for name in self.networks
        }
        averages = {
            name: weights | {_plain(key): _gathered(value) for key, value in self.averages[name].items()}
            for name, (weights, _) in tensors.items()
        }
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for name, (weights, optimizer) in tensors.items():
                _save(temporary / f"{name}.safetensors", weights)
                _save(temporary / f"{name}.average.safetensors", averages[name])
                _save(temporary / f"{name}.optimizer.safetensors", _parted(optimizer["state"]))
            (temporary / "state.json").write_text(json.dumps({"step": self.step}))
            temporary.rename(target)
            for old in sorted(self.folder.glob("step-*[0-9]"))[:-KEPT]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Take up the newest checkpoint, if any."""
        place = newest(self.folder)
        if place is None:
            return
        self.step = json.loads((place / "state.json").read_text())["step"]
        for name, network in self.networks.items():
            weights: Any = load_file(place / f"{name}.safetensors")
            optimizer = self.optimizers[name]
            state = _joined(load_file(place / f"{name}.optimizer.safetensors"))
            groups = get_state_dict(network, optimizer)[1]["param_groups"]
            whole: Any = {"state": state, "param_groups": groups}
            set_state_dict(network, optimizer, model_state_dict=weights, optim_state_dict=whole, options=WHOLE)
            average = load_file(place / f"{name}.average.safetensors")
            for key, value in self.averages[name].items():
                value.copy_(_like(value, average[_plain(key)]))
        self._forget_record()

    def _forget_record(self) -> None:
        """Drop rows of steps that will be done again."""
        record = self.folder / RECORD
        if self.accelerator.is_main_process and record.exists():
            rows = record.read_text().splitlines()
            record.write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] <= self.step))


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return max(folder.glob("step-*[0-9]"), default=None)


def _save(path: Path, values: Mapping[str, Any]) -> None:
    save_file({key: value.contiguous() for key, value in values.items()}, path)


def _plain(key: str) -> str:
    """A weight's name without what checkpointing of activations adds."""
    return key.replace("_checkpoint_wrapped_module.", "")


def _gathered(value: Tensor) -> Tensor:
    """The whole of a tensor that ranks hold shares of, on the CPU."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def _like(value: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, split over ranks as `value` is."""
    return distribute_tensor(whole, value.device_mesh, value.placements) if isinstance(value, DTensor) else whole


def _parted(state: Any) -> dict[str, Tensor]:
    """An optimiser's state, {parameter: {value: tensor}}, with one key a tensor; settings come from the schedule."""
    return {f"{parameter}|{name}": value for parameter, values in state.items() for name, value in values.items()}


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The way back."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, name = key.split("|")
        state.setdefault(parameter, {})[name] = value
    return state
