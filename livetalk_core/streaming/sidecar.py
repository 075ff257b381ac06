"""What lies beside an unfinished video, so that it can be taken up again after a crash.

`name.partial.json` says what the video was made from and how far it has reached the disk; it is there before the
partial itself. `name.partial.safetensors` holds the states at the last two chunk ends, so that a kill between the two
writes leaves a pair that fits. Where they lie and who may write them: `media.place`.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..config import LARGEST_SEED
from ..errors import ResumeError
from ..files import read_bounded, write_durably
from ..media.place import OutputPlace, unreadable
from ..media.video import Checkpoint
from .state import StreamState

logger = logging.getLogger(__name__)

MOST = 2**63
"""No count is larger."""
MOST_STATE = 2**31
"""Bytes of two states; those of 1920x1088 px have some hundred millions."""


class Sidecar:
    """The two files beside the partial of `output`.

    `inputs` names everything that the picture depends on: a resume with others is refused. `means` names what else it
    was computed with (devices, precision): a resume with others says so.
    """

    def __init__(self, output: Path | OutputPlace, inputs: Mapping[str, Any], means: Mapping[str, Any] = {}) -> None:
        self.place = output if isinstance(output, OutputPlace) else OutputPlace(output)
        self.inputs, self.means = _as_read(inputs), _as_read(means)
        self._previous: StreamState | None = None
        self._begun_with = self.means

    def begin(self, seed: int) -> None:
        """Say that a render begins here."""
        self._describe(0, seed, Checkpoint(0, 0, 0))

    def save(self, state: StreamState, checkpoint: Checkpoint) -> None:
        """Remember that the video up to `checkpoint` is on disk and goes on from `state`."""
        states = [state] if self._previous is None else [self._previous, state]
        tensors = {f"{name}.{s.next_chunk}": value for s in states for name, value in s.tensors().items()}
        write_durably(self.place.tensors, save(tensors))
        self._describe(state.next_chunk, state.seed, checkpoint)
        self._previous = state

    @property
    def exists(self) -> bool:
        """Whether an unfinished render of ours left its state here, after a chunk or more."""
        return bool(self.place.chunks)

    def load(self) -> tuple[StreamState, Checkpoint]:
        """The saved state; `ResumeError` if it is damaged or of other inputs."""
        said = self.place.read_description()
        try:
            chunk, seed = _integer(said["next_chunk"]), _integer(said["seed"], -LARGEST_SEED, LARGEST_SEED)
            checkpoint = Checkpoint(**{name: _integer(value) for name, value in dict(said["video"]).items()})
            inputs, means = dict(said["inputs"]), dict(said["means"])
            _need(0 < chunk == checkpoint.chunks <= checkpoint.frames, "its counts contradict one another")
            state = self._state(chunk, seed)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ResumeError(unreadable(self.place.description, str(error))) from error
        self._compare(inputs)
        self._begun_with = means
        self._previous = state
        return state, checkpoint

    def remove(self) -> None:
        """Delete both files, and the partial: the video is complete."""
        self.place.clear()

    def _describe(self, chunk: int, seed: int, checkpoint: Checkpoint) -> None:
        self.place.describe(
            {
                "next_chunk": chunk,
                "seed": seed,
                "video": checkpoint._asdict(),
                "inputs": self.inputs,
                "means": self.means,
            }
        )

    def _state(self, chunk: int, seed: int) -> StreamState:
        tensors = load(read_bounded(self.place.tensors, MOST_STATE))
        motion, review, shown = (tensors.get(f"{name}.{chunk}") for name in ("motion", "review", "shown"))
        _need(motion is not None, f"{self.place.tensors.name} holds nothing of chunk {chunk}")
        for name, tensor, axes in (("motion", motion, 4), ("review", review, 3), ("shown", shown, 4)):
            _need(tensor is None or _is_sound(tensor, axes), f"{name} is not what a render saves")
        assert motion is not None
        return StreamState(chunk, seed, motion, review, shown)

    def _compare(self, saved: Mapping[str, Any]) -> None:
        changed = _differences(saved, self.inputs)
        if changed:
            raise ResumeError(
                f"{self.place.description} belongs to a render with another {', '.join(changed)}; "
                "resume with the same, begin anew with --overwrite, or choose another --output"
            )

    def say_what_differs(self) -> None:
        """Log, in one line, with what other means than these the render that was loaded began."""
        saved = self._begun_with
        changed = [f"{name} {saved.get(name)}, now {self.means.get(name)}" for name in _differences(saved, self.means)]
        if changed:
            logger.warning("the render began with %s: it goes on, equal but for rounding", "; ".join(changed))


def _as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """As a file gives them back."""
    return json.loads(json.dumps(dict(values)))


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(set(saved) | set(now)) if saved.get(name) != now.get(name)]


def _need(truth: bool, fault: str) -> None:
    if not truth:
        raise ValueError(fault)


def _integer(value: Any, least: int = 0, most: int = MOST) -> int:
    _need(type(value) is int and least <= value <= most, f"{str(value)[:40]!r} is no count")
    return value


def _is_sound(tensor: Tensor, axes: int) -> bool:
    return tensor.is_floating_point() and tensor.ndim == axes and tensor.numel() > 0 and bool(tensor.isfinite().all())
