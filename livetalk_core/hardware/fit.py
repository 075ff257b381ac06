"""What fits on which card, and what to say where it does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ..errors import DeviceMemoryError, InputError
from ..presets import Preset
from .machine import ran_out_of_memory
from .memory import readable, text_encoder_bytes
from .placement import Placement, Residence, residence

GIB = 2**30
CARDS = (8, 12, 16, 24, 32, 48, 80, 141)
"""Sizes that cards are sold with, in GB."""


class Fit(NamedTuple):
    """The exactest way to run a preset within some bytes; `text_on_cpu`: its text encoder is larger than they are."""

    placement: Placement
    residence: Residence
    text_on_cpu: bool

    @property
    def flags(self) -> str:
        """The options that ask for it."""
        flags = ["--fp8"] * self.placement.fp8
        if self.residence.blocks < self.residence.of:
            flags.append(f"--memory {(self.placement.memory or 0) / GIB:.1f}G".replace(".0G", "G"))
        return " ".join(flags) or "none"


def usable(card: float) -> int:
    """Bytes that are left of a card of so many GB: its driver and the CUDA context take the rest."""
    return int((0.975 * card - 0.25) * GIB)


def fitting(preset: Preset, dtype: torch.dtype, free: int, fp8: bool | None = None) -> Fit | None:
    """All on the device if that fits, else with FP8, else with as few blocks streamed as can be; None: nothing does.

    `fp8` leaves only the one or the other precision to choose.
    """
    exactest = (Placement(), Placement(fp8=True), Placement(True, free))
    for placement in exactest if fp8 is None else (Placement(fp8), Placement(fp8, free)):
        try:
            needed = residence(preset, dtype, placement)
        except InputError:
            return None
        if needed.total <= free:
            return Fit(placement, needed, text_encoder_bytes(preset, dtype) > free)
    return None


def advice(preset: Preset, dtype: torch.dtype, free: int) -> str:
    """What would do on a device of which `free` bytes can be had."""
    fit = fitting(preset, dtype, free)
    if fit is None:
        return "nothing here makes it fit: give a smaller --size, or free some of the device's memory"
    if fit.flags == "none":
        return "free what else uses the device, give --memory less than it took, or a smaller --size"
    return f"{fit.flags} would do (counted: {readable(fit.residence.total)}), or a smaller --size"


@contextmanager
def explained(preset: Preset, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Raise a `DeviceMemoryError`, one line that says what would do, where the device runs out of memory inside."""
    try:
        yield
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        reason, total = str(error).splitlines()[0].rstrip("."), _total(device)
        raise DeviceMemoryError(
            f"{device} ran out of memory ({reason}); {preset.name} at {preset.stream.width}x{preset.stream.height}: "
            + advice(preset, dtype, usable(total / GIB))
        ) from None


def _total(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" and torch.cuda.is_available() else 0
