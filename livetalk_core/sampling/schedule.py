"""The few-step schedule: which noise levels the sampler visits."""

from typing import NamedTuple

from ..errors import InputError

DISTILLED_TIMESTEPS = {2: (1000.0, 500.0), 4: (1000.0, 750.0, 500.0, 250.0)}
BRIDGE_OFFSET = 0.001
"""By how much noise levels are above the model's timesteps where chunks cross LeapTalk's bridge, whose last is -1."""


class Schedule(NamedTuple):
    """The model's timesteps, one a step, and the noise levels before and after each: one more."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def of(cls, steps: int, shift: float, bridge: bool = False) -> "Schedule":
        """The schedule of `sigmas`; with `bridge` as LeapTalk's: levels are (timestep + 1) / 1000."""
        levels = sigmas(steps, shift)
        timesteps = tuple(1000 * level for level in levels[:-1])
        if bridge:
            levels = (*(level + BRIDGE_OFFSET for level in levels[:-1]), 0.0)
        return cls(timesteps, levels)


def sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """Noise levels from 1 to 0: `steps` + 1 values. The model's timestep is 1000 * sigma.

    2 and 4 steps use the timesteps of the distillation, other counts go evenly from 1000 to 1 (reference
    behaviour); each is then stretched: t' = shift * t / (1 + (shift - 1) * t).
    """
    if steps < 1 or shift <= 0:
        raise InputError(f"{steps} steps with shift {shift}; needs at least 1 step and a shift above 0")
    even = tuple(1000.0 - 999.0 * i / max(1, steps - 1) for i in range(steps))
    levels = (t / 1000 for t in DISTILLED_TIMESTEPS.get(steps, even))
    return (*(shift * t / (1 + (shift - 1) * t) for t in levels), 0.0)
