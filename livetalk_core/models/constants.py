"""Numbers of a model's configuration, as tensors on the device that asks for them."""

from typing import Any

import torch
from torch import Tensor


class Constants:
    """Copied to each device once: for a copy from the host, the host waits until the device has done all it has."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, like: Tensor) -> Tensor:
        """The numbers on the device of `like`, in its dtype."""
        key = like.device, like.dtype
        if key not in self._kept:
            with torch.inference_mode(False):  # a gradient may flow through what they are used in
                self._kept[key] = torch.tensor(self._values, device=like.device, dtype=like.dtype)
        return self._kept[key]
