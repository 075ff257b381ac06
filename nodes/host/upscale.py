"""A stock UPSCALE_MODEL on the frames of a chunk."""

import hashlib
from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from torch import Tensor

from ...livetalk_core.errors import InputError

TILE, OVERLAP, SMALLEST_TILE = 512, 32, 128
PROBE_SIDE = 64
BYTES_PER_TILE_VALUE = 384
"""What upscalers hold per value of a tile and unit of scale: ComfyUI's own estimate."""


class Upscaler:
    """Frames [3,n,H,W] in -1..1 -> the same frames, each side `scale` times as long.

    `probe` [1,3,1,H,W] in -1..1 is upscaled at once: a model that changes the aspect, or whose scale is no whole
    number, is refused before anything is computed or written. `identity` says what the model makes of the probe.
    """

    def __init__(self, model: Any, probe: Tensor) -> None:
        self.model, self._tile = model, TILE
        self.scale = self._measure(probe[:, :, 0, :PROBE_SIDE, :PROBE_SIDE])
        self.identity = f"{self.scale}x, {_digest(self(probe[0]))}"

    def _measure(self, probe: Tensor) -> int:
        """How many times longer the model makes the sides of an image [1,3,H,W]."""
        image = probe.to(self._load()).float()
        rows, columns = (
            after / before for after, before in zip(self.model(image).shape[-2:], probe.shape[-2:], strict=True)
        )
        if rows != columns or not rows.is_integer():
            raise InputError(
                f"the upscale model makes images {columns:g} times as wide and {rows:g} times as high; both must be "
                "the same whole number: choose a 2x or 4x model"
            )
        return int(rows)

    def _load(self) -> torch.device:
        needed = TILE * TILE * 3 * 4 * max(self.model.scale, 1.0) * BYTES_PER_TILE_VALUE
        memory.load_models_gpu([self.model.patcher], memory_required=needed)
        return self.model.patcher.load_device

    def __call__(self, frames: Tensor) -> Tensor:
        """See the class. Halves its tiles where memory runs out."""
        device = self._load()
        images = (frames.movedim(1, 0).float() + 1) / 2
        return torch.cat([self._upscale(image[None].to(device)) for image in images]).movedim(0, 1) * 2 - 1

    def _upscale(self, image: Tensor) -> Tensor:
        """One image [1,3,H,W] in 0..1 at a time: memory does not depend on the chunk's length."""
        memory.throw_exception_if_processing_interrupted()
        while True:
            try:
                size = {"tile_x": self._tile, "tile_y": self._tile, "overlap": OVERLAP}
                size |= {"upscale_amount": self.scale, "output_device": "cpu"}
                out = comfy.utils.tiled_scale(image, self._enlarge, **size)
                return out.clamp(0, 1)
            except Exception as error:
                memory.raise_non_oom(error)
                self._tile //= 2
                if self._tile < SMALLEST_TILE:
                    raise

    def _enlarge(self, tile: Tensor) -> Tensor:
        return self.model(tile.float())


def _digest(frames: Tensor) -> str:
    pixels = (frames * 127.5 + 127.5).round().to(torch.uint8)
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
