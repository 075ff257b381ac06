"""The few-step schedule: which noise levels the sampler visits."""

from ..errors import InputError

DISTILLED_TIMESTEPS = {2: (1000.0, 500.0), 4: (1000.0, 750.0, 500.0, 250.0)}


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
