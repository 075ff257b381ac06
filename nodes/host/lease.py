"""The memory that workers hold, in ComfyUI's list of loaded models: room is made for it, and it is asked for back."""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import torch
from torch import nn


class LiveTalkWorkers(nn.Module):
    """An empty model, by whose name ComfyUI's log speaks of the workers."""

    device: torch.device


class Lease(comfy.model_patcher.ModelPatcher):
    """Stands for `size` bytes of workers on a device while they are `running`; unloading it calls `end`.

    So ComfyUI frees that much before they start, and ends them where another model needs the room or the user frees
    all models.
    """

    def __init__(self, device: str, size: int, running: Callable[[], bool], end: Callable[[], None]) -> None:
        held, place = LiveTalkWorkers(), torch.device(device)
        held.device = place
        super().__init__(held, load_device=place, offload_device=torch.device("cpu"), size=max(size, 1))
        self._running, self._end = running, end

    def loaded_size(self) -> int:
        """Bytes that are held now."""
        return self.size if self._running() else 0

    def partially_load(self, *_: Any, **__: Any) -> int:
        """The workers load by themselves."""
        return 0

    def partially_unload(self, *_: Any, **__: Any) -> int:
        """They give back all or nothing."""
        return 0

    def detach(self, unpatch_all: bool = True) -> nn.Module:
        """Unload. ComfyUI also calls this, with False, where a loaded model is only moved to the front of its list."""
        if unpatch_all:
            self._end()
        return self.model


def claim(leases: Sequence[Lease]) -> None:
    """Make room for workers that are about to run."""
    memory.load_models_gpu(list(leases))
