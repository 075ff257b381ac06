"""Checkpoints of a run: complete, or not there at all.

One process writes safetensors: `NAME`, `NAME.average` and `NAME.optimizer` for each network. Of several, each writes
its share into one folder of PyTorch's distributed format, in the background. Either kind is taken up by any number of
processes.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import CheckpointError, InputError, LiveTalkError
from .sharding import SHARDS, processes, read_whole, reader_of

COMPLETE = StateDictOptions(full_state_dict=True, cpu_offload=True)
KEPT = 2
"""Checkpoints that stay: the newest ones."""
STATE = "state.json"


class Learner(NamedTuple):
    """A network, its optimiser and the averages of its weights, which are empty where nobody wants them."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]


class Keeper:
    """Writes and reads the checkpoints of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._group: Any = dist.new_group(backend="gloo") if processes() > 1 else None
        self._writing: tuple[Future[Any], Callable[[], None]] | None = None

    def save(self, step: int, learners: Mapping[str, Learner]) -> None:
        """Write a checkpoint; of several processes' it is complete once `finish` has returned."""
        self.finish()
        target = self.folder / f"step-{step:07d}"
        temporary = target.with_name(target.name + ".part")
        if _is_first():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            (temporary / STATE).write_text(json.dumps({"step": step}))
        if self._group is None:
            for name, learner in learners.items():
                _write_whole(temporary, name, learner)
            _put_in_place(temporary, target)
            return
        dist.barrier(self._group)
        state: dict[str, Any] = {
            key: value for name, learner in learners.items() for key, value in _parts(name, learner).items()
        }
        writing = dcp.async_save(state, checkpoint_id=temporary / SHARDS, process_group=self._group)
        self._writing = cast("Future[Any]", writing), lambda: _put_in_place(temporary, target)

    def finish(self) -> None:
        """Wait for what is being written, and put it in place."""
        if self._writing is None:
            return
        writing, put_in_place = self._writing
        self._writing = None
        writing.result()
        dist.barrier(self._group)
        if _is_first():
            put_in_place()
        dist.barrier(self._group)

    def resume(self, learners: Mapping[str, Learner]) -> int:
        """Take up the newest checkpoint; the number of its step, 0 where there is none."""
        place = newest(self.folder)
        if place is None:
            return 0
        with _reading(place):
            for name, learner in learners.items():
                if (place / SHARDS).is_dir():
                    _take_up_shares(place / SHARDS, name, learner)
                else:
                    _take_up_whole(place, name, learner)
            return int(json.loads((place / STATE).read_text())["step"])


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Whatever fails while a checkpoint is read, from a short file on, is a `CheckpointError` that says what to do."""
    try:
        yield
    except (LiveTalkError, torch.OutOfMemoryError):
        raise
    # PyTorch's own says what failed on each process, and is no Exception.
    except (CheckpointException, SafetensorError, OSError, RuntimeError, LookupError, ValueError, EOFError) as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        reason = str(cause).partition("\n")[0] or type(cause).__name__
        raise CheckpointError(
            f"{place} is damaged ({reason}): remove it, and the run goes on from the checkpoint before, or begins anew"
        ) from None


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return max(folder.glob("step-*[0-9]"), default=None)


def averaged(folder: Path, name: str) -> dict[str, Tensor]:
    """Averaged weights of a run's newest checkpoint, or of the file itself."""
    place = newest(folder) if folder.is_dir() else None
    with _reading(place or folder):
        if place is not None and (place / SHARDS).is_dir():
            return read_whole(place / SHARDS, f"{name}/average/")
        path = folder if place is None else place / f"{name}.average.safetensors"
        if not path.is_file():
            raise InputError(f"{path} is no checkpoint; a run's folder or a safetensors file of weights is needed")
        return load_file(path)


def _is_first() -> bool:
    return processes() == 1 or dist.get_rank() == 0


def _put_in_place(temporary: Path, target: Path) -> None:
    temporary.replace(target)
    for old in sorted(target.parent.glob("step-*[0-9]"))[:-KEPT]:
        shutil.rmtree(old)


def _write_whole(place: Path, name: str, learner: Learner) -> None:
    weights, optimizer = get_state_dict(learner.network, learner.optimizer, options=COMPLETE)
    _save(place / f"{name}.safetensors", weights)
    if learner.average:
        _save(place / f"{name}.average.safetensors", weights | learner.average)
    _save(place / f"{name}.optimizer.safetensors", _flat(optimizer["state"]))


def _parts(name: str, learner: Learner) -> dict[str, Any]:
    """This process's share of a network's weights, averages and optimiser, by names of their own."""
    weights, optimizer = get_state_dict(learner.network, learner.optimizer)
    kinds = {"weights": weights, "average": _complete(weights, learner.average), "optimizer": _flat(optimizer["state"])}
    return {f"{name}/{kind}/{key}": value for kind, values in kinds.items() for key, value in values.items()}


def _complete(weights: Mapping[str, Any], average: Mapping[str, Tensor]) -> dict[str, Any]:
    """Averages, and the weights that are not trained; nothing where nothing is averaged."""
    return {**weights, **average} if average else {}


def _take_up_shares(place: Path, name: str, learner: Learner) -> None:
    state, reader = _parts(name, learner), reader_of(place)
    stored: Any = reader.read_metadata().state_dict_metadata
    prefix = f"{name}/weights/"
    _check_shapes({key: part.size for key, part in stored.items() if key.startswith(prefix)}, state, prefix, place)
    dcp.load(state, storage_reader=reader)
    weights, optimizer = get_state_dict(learner.network, learner.optimizer)
    parts = {
        kind: {key.split("/", 2)[2]: value for key, value in state.items() if key.startswith(f"{name}/{kind}/")}
        for kind in ("weights", "optimizer", "average")
    }
    optimizer_state: Any = {"state": _nested(parts["optimizer"]), "param_groups": optimizer["param_groups"]}
    set_state_dict(
        learner.network,
        learner.optimizer,
        model_state_dict={**weights, **parts["weights"]},
        optim_state_dict=optimizer_state,
    )
    for key, value in learner.average.items():
        value.copy_(parts["average"][key])


def _take_up_whole(place: Path, name: str, learner: Learner) -> None:
    groups = get_state_dict(learner.network, learner.optimizer)[1]["param_groups"]
    optimizer_state: Any = {
        "state": _nested(load_file(place / f"{name}.optimizer.safetensors")),
        "param_groups": groups,
    }
    weights: Any = load_file(place / f"{name}.safetensors")
    sizes = {key: tensor.shape for key, tensor in weights.items()}
    _check_shapes(sizes, learner.network.state_dict(), "", place / f"{name}.safetensors")
    set_state_dict(
        learner.network, learner.optimizer, model_state_dict=weights, optim_state_dict=optimizer_state, options=COMPLETE
    )
    average = load_file(place / f"{name}.average.safetensors") if learner.average else {}
    for key, value in learner.average.items():
        value.copy_(_like(value, average[key]))


def _check_shapes(stored: Mapping[str, Any], needed: Mapping[str, Any], prefix: str, place: Path) -> None:
    """Raise `CheckpointError` unless a network's weights were stored with the names and shapes that they have now."""
    now = {key: tuple(tensor.shape) for key, tensor in needed.items() if key.startswith(prefix)}
    then = {key: tuple(size) for key, size in stored.items()}
    faults = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if faults:
        key = faults[0]
        raise CheckpointError(
            f"{place} holds {key.removeprefix(prefix)} as {then.get(key)}, the configuration makes it {now.get(key)} "
            f"({len(faults)} differ): go on with the settings that the run began with, or choose another --output"
        )


def _save(path: Path, values: Mapping[str, Any]) -> None:
    save_file({key: value.cpu().contiguous() for key, value in values.items()}, path)


def _like(value: Tensor, full: Tensor) -> Tensor:
    """A whole tensor, split over processes as `value` is."""
    return distribute_tensor(full, value.device_mesh, value.placements) if isinstance(value, DTensor) else full


def _flat(state: Any) -> dict[str, Tensor]:
    """An optimiser's state, {parameter: {value: tensor}}, with one key a tensor; settings come from the schedule."""
    return {f"{parameter}|{name}": value for parameter, values in state.items() for name, value in values.items()}


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The way back."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, name = key.split("|")
        state.setdefault(parameter, {})[name] = value
    return state
