"""The command `generate`."""

import argparse
from pathlib import Path

from ...config import AUDIO_MODES, DEFAULT_PROMPT
from ..fleet import fleet_options
from ..options import (
    join_option,
    lora_option,
    machine_options,
    placement_options,
    seed,
    size,
    speed_options,
    stoppable,
    words,
)
from ..progress import show_stage

AUTO = "auto"
"""The `--size` in the portrait's own shape."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--image", type=Path, required=True, help="the portrait")
    command.add_argument("--audio", type=Path, required=True, help="the speech: any sound or video file")
    command.add_argument("--output", type=Path, help="the video (default: talk.mp4; with --codec prores, talk.mov)")
    command.add_argument(
        "--codec", default="h264",
        help="h264, which plays everywhere; h265 or av1: smaller files, made more slowly; prores: 422 HQ with "
        "uncompressed sound in a .mov, for editors (default: h264)",
    )  # fmt: skip
    command.add_argument(
        "--crf", type=int, default=18, metavar="N",
        help="quality: a smaller number is better and larger; of no effect with prores (default: 18)",
    )  # fmt: skip
    command.add_argument("--model", default="nano", help="'nano' (embedded) or a folder of weights (default: nano)")
    command.add_argument(
        "--patch", type=Path, metavar="PATH",
        help="an InfiniteTalk patch for --model, then a folder of Wan 2.1 I2V 14B; sampled as its makers do: "
        "40 steps, guided, 81 frames a chunk; or LeapTalk's folder, for FlashHead Pro: 1 step",
    )  # fmt: skip
    command.add_argument("--prompt", type=words, default=DEFAULT_PROMPT, help="what is seen")
    command.add_argument(
        "--prompt-at", type=words, nargs=2, action="append", default=[], metavar=("SECONDS", "PROMPT"),
        help="another prompt from the chunk at this time on; may be given several times",
    )  # fmt: skip
    command.add_argument("--seed", type=seed, default=0, help="of the noise (default: 0)")
    command.add_argument(
        "--audio-mode", choices=AUDIO_MODES, default="window", help="how speech is encoded (default: window)"
    )
    command.add_argument(
        "--audio-offset", type=float, default=0, metavar="MS",
        help="milliseconds by which the lips come before the sound; below 0, after it (default: 0)",
    )  # fmt: skip
    command.add_argument(
        "--size", type=_size,
        help="WIDTHxHEIGHT in pixels, multiples of 16, of FlashHead Lite 32; auto: the picture's shape (default: the "
        "model's)",
    )  # fmt: skip
    command.add_argument(
        "--crop", default="center", metavar="PART",
        help="what is kept of a picture of another shape: center, top, or X,Y,W,H in its pixels (default: center)",
    )  # fmt: skip
    command.add_argument("--steps", type=int, help="sampling steps (default: the model's: 4, with --patch 40 or 1)")
    command.add_argument(
        "--guidance", type=float, nargs=2, metavar=("TEXT", "AUDIO"),
        help="sample weights that are not distilled, guided by prompt and by sound; 1: not (with --patch: 5 4)",
    )  # fmt: skip
    command.add_argument("--negative-prompt", type=words, help="what guidance by text leads away from")
    command.add_argument("--color-correction", type=float, help="0 (off) to 1 (default: 1)")
    command.add_argument(
        "--correction",
        type=float,
        metavar="STRENGTH",
        help="retrospection, which undoes drift: 0 (off) to 1 (default: 0)",
    )
    join_option(command)
    lora_option(command)
    command.add_argument("--resume", action="store_true", help="go on with an unfinished render of the same output")
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")
    machine_options(command)
    fleet_options(command)
    speed_options(command)
    placement_options(command)


def _size(text: str) -> tuple[int, int] | str:
    return AUTO if text == AUTO else size(text)


def run(options: argparse.Namespace) -> int:
    """Render a talking video."""
    with show_stage("starting"):
        from .watch import generate

    with stoppable():
        return generate(options)
