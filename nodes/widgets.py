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
        max=100,
        advanced=True,
        tooltip="Denoising steps per chunk. The model is distilled for 4; 2 is twice as fast and less exact. Wan 2.1 "
        "with an InfiniteTalk patch needs 40, or what its speed LoRA is for.",
    )


def prefix_input() -> io.String.Input:
    """Where the video goes."""
    return io.String.Input(
        "filename_prefix",
        default="video/LiveTalk",
        tooltip="Folder and name in ComfyUI's output folder; a number and .mp4 are added. %date:yyyy-MM-dd% and the "
        "like work.",
    )


def resume_input() -> io.Boolean.Input:
    """Whether to go on with what was left unfinished."""
    return io.Boolean.Input(
        "resume",
        default=False,
        tooltip="Go on with the newest unfinished video of this filename prefix, if there is one, with the seed that "
        "it began with; all other inputs must be the same. Off: start a new file.",
    )
