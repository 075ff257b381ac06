"""Widgets that more than one node has: one name, range and explanation for each."""

from typing import Any

from comfy_api.latest import io

from ..livetalk_core.config import LARGEST_SEED
from ..livetalk_core.media.coding import CODECS, USUAL_CODING


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
        tooltip="Folder and name in ComfyUI's output folder; a number and the ending are added. %date:yyyy-MM-dd%, "
        "%LiveTalkAvatar.width% and the like are filled in.",
    )


def resume_input(tooltip: str) -> io.Boolean.Input:
    """Whether to go on with what was left unfinished."""
    return io.Boolean.Input("resume", default=False, tooltip=tooltip)


def coding_inputs() -> list[Any]:
    """How the picture is encoded."""
    return [
        io.Combo.Input(
            "codec",
            options=list(CODECS),
            default=USUAL_CODING.codec,
            advanced=True,
            tooltip="h264 plays everywhere. h265 and av1 make smaller files of the same quality, more slowly; many "
            "browsers do not play h265. prores is for editors: 422 HQ with uncompressed sound in a .mov, many times as "
            "large; no browser plays it.",
        ),
        io.Int.Input(
            "crf",
            default=USUAL_CODING.crf,
            min=0,
            max=63,
            advanced=True,
            tooltip="Quality of the file: smaller is better and larger. 18 is hardly to be told from the frames; h264 "
            "and h265 go to 51, av1 to 63; prores has one quality.",
        ),
    ]


def save_output_input() -> io.Boolean.Input:
    """Whether the video is to stay."""
    return io.Boolean.Input(
        "save_output",
        default=True,
        advanced=True,
        tooltip="Off: the video goes to ComfyUI's temporary folder, which it empties when it starts. For trying seeds.",
    )
