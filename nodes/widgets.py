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
        default=0,
        min=0,
        max=100,
        advanced=True,
        tooltip="Denoising steps per chunk. 0: as many as the model was made for, 4, or 40 with an InfiniteTalk patch. "
        "2 is twice as fast and less exact. With a speed LoRA, as many as that is for.",
    )


def prefix_input() -> io.String.Input:
    """Where the video goes."""
    return io.String.Input(
        "filename_prefix",
        default="video/LiveTalk",
        tooltip="Folder and name in ComfyUI's output folder; a number and .mp4 are added. %date:yyyy-MM-dd%, "
        "%LiveTalkAvatar.width% and the like are filled in.",
    )


def resume_input(tooltip: str) -> io.Boolean.Input:
    """Whether to go on with what was left unfinished."""
    return io.Boolean.Input("resume", default=False, tooltip=tooltip)
