"""What lies beside an unfinished video, so that it can be taken up again after a crash.

`name.partial.json` says what the video was made from and how far it has reached the disk;
`name.partial.safetensors` holds the states at the last two chunk ends, so that a kill between the two writes
leaves a pair that fits. Each is written to a temporary file, synced, and renamed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..errors import ResumeError
from ..files import write_durably
from ..media.video import Checkpoint, partial_path
from .state import StreamState

FORMAT = 1
ENDING = ".partial.json"
"""What a video's name without `.mp4` is followed by while the video is unfinished."""


class Sidecar:
    """The two files beside the partial of `output`; `inputs` names everything the video depends on."""

    def __init__(self, output: Path, inputs: Mapping[str, Any]) -> None:
        partial = partial_path(output)
        self.description, self.tensors = partial.with_suffix(".json"), partial.with_suffix(".safetensors")
        self.inputs: dict[str, Any] = json.loads(json.dumps(dict(inputs)))  # as a file gives them back
        self._previous: StreamState | None = None

    def save(self, state: StreamState, checkpoint: Checkpoint) -> None:
        """Remember that the video up to `checkpoint` is on disk and goes on from `state`."""
        states = [state] if self._previous is None else [self._previous, state]
        tensors = {f"{name}.{s.next_chunk}": value for s in states for name, value in s.tensors().items()}
        write_durably(self.tensors, save(tensors))
        description = {
            "format": FORMAT,
            "next_chunk": state.next_chunk,
            "seed": state.seed,
            "video": checkpoint._asdict(),
            "inputs": self.inputs,
        }
        write_durably(self.description, json.dumps(description, indent=1).encode())
        self._previous = state

    @property
    def exists(self) -> bool:
        """Whether an unfinished render left its state."""
        return self.description.exists()

    def load(self) -> tuple[StreamState, Checkpoint]:
        """The saved state; `ResumeError` if it is damaged or of other inputs."""
        try:
            description = json.loads(self.description.read_bytes())
            inputs, chunk = description["inputs"], description["next_chunk"]
            checkpoint = Checkpoint(**description["video"])
            tensors = load_file(self.tensors)
            kept = (tensors.get(f"{name}.{chunk}") for name in ("review", "shown"))
            state = StreamState(chunk, description["seed"], tensors[f"motion.{chunk}"], *kept)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ResumeError(
                f"{self.description} cannot be read ({error}); the partial video still plays: "
                "keep it under another name and render anew"
            ) from error
        self._compare(inputs)
        self._previous = state
        return state, checkpoint

    def _compare(self, saved: Mapping[str, Any]) -> None:
        names = sorted(set(saved) | set(self.inputs))
        changed = [name for name in names if saved.get(name) != self.inputs.get(name)]
        if changed:
            raise ResumeError(
                f"{self.description} belongs to a render with another {', '.join(changed)}; "
                "resume with the same inputs, or choose another output name"
            )

    def remove(self) -> None:
        """Delete both files: the video is complete."""
        self.tensors.unlink(missing_ok=True)
        self.description.unlink(missing_ok=True)
