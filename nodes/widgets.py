"""Widgets that more than one node has: one name, range and explanation for each."""

from comfy_api.latest import io

LARGEST_SEED = 2**64 - 1


def seed_input() -> io.Int.Input:
    """The seed of the noise."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=LARGEST_SEED,
        control_after_generate=True,
        tooltip="The noise of every chunk follows from this number and the chunk's index.",
    )


def steps_input() -> io.Int.Input:
    """Denoising steps of a chunk."""
    return io.Int.Input(
        "steps",
        default=4,
        min=1,
        max=16,
        advanced=True,
        tooltip="Denoising steps per chunk. The model is distilled for 4; 2 is twice as fast and less exact.",
    )


def color_input() -> io.Float.Input:
    """Strength of the colour transfer."""
    return io.Float.Input(
        "color_correction",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
        tooltip="How far each frame's colours are pulled towards the portrait's: 1 fully (stops drift), 0 not at all.",
    )
