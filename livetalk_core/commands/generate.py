"""The command `generate`."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from ..config import DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT, CorrectionConfig, Guidance
from ..errors import Cancelled, InputError
from ..media.video import partial_path
from ..parallel.fleet import Fleet
from ..shapes import FRAMES_PER_SECOND
from ..streaming.features import MODES
from ..streaming.render import Render
from ..streaming.session import Frames
from .fleet import fleet_of, fleet_options
from .options import device_and_dtype, machine_options, placement_of, placement_options, size, speed_options, stoppable
from .prepare import Settings, prepare


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("--image", type=Path, required=True, help="the portrait")
    command.add_argument("--audio", type=Path, required=True, help="the speech: any sound or video file")
    command.add_argument("--output", type=Path, default=Path("talk.mp4"), help="the video (default: talk.mp4)")
    command.add_argument("--model", default="nano", help="'nano' (embedded) or a folder of weights (default: nano)")
    command.add_argument(
        "--patch", type=Path, metavar="FILE",
        help="an InfiniteTalk patch for --model, then a folder of Wan 2.1 I2V 14B; sampled as its makers do: "
        "40 steps, guided, 81 frames a chunk",
    )  # fmt: skip
    command.add_argument("--prompt", default=DEFAULT_PROMPT, help="what is seen")
    command.add_argument(
        "--prompt-at", nargs=2, action="append", default=[], metavar=("SECONDS", "PROMPT"),
        help="another prompt from the chunk at this time on; may be given several times",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    command.add_argument(
        "--audio-mode", choices=MODES, default="window", help="how speech is encoded (default: window)"
    )
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels, multiples of 16 (default: the model's)")
    command.add_argument("--steps", type=int, help="sampling steps (default: 4, with --patch 40)")
    command.add_argument(
        "--guidance", type=float, nargs=2, metavar=("TEXT", "AUDIO"),
        help="sample weights that are not distilled, guided by prompt and by sound; 1: not (with --patch: 5 4)",
    )  # fmt: skip
    command.add_argument(
        "--negative-prompt", default=DEFAULT_NEGATIVE_PROMPT, help="what guidance by text leads away from"
    )
    command.add_argument("--color-correction", type=float, help="0 (off) to 1 (default: 1)")
    command.add_argument(
        "--correction",
        type=float,
        metavar="STRENGTH",
        help="retrospective correction of drift, 0 (off) to 1 (default: 0)",
    )
    command.add_argument("--resume", action="store_true", help="go on with an unfinished render of the same output")
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")
    machine_options(command)
    fleet_options(command)
    speed_options(command)
    placement_options(command)


def run(options: argparse.Namespace) -> int:
    """Render a talking video."""
    device, dtype = device_and_dtype(options)
    with stoppable(), fleet_of(options, dtype) or nullcontext() as fleet:
        return _generate(options, device, dtype, fleet)


def _generate(options: argparse.Namespace, device: torch.device, dtype: torch.dtype, fleet: Fleet | None) -> int:
    settings = Settings(
        image=options.image, audio=options.audio, output=options.output, model=options.model, prompt=options.prompt,
        prompts_at=tuple((_seconds(at), prompt) for at, prompt in options.prompt_at), seed=options.seed,
        negative_prompt=options.negative_prompt, patch=options.patch,
        guidance=Guidance(*options.guidance) if options.guidance else None,
        audio_mode=options.audio_mode, size=options.size, steps=options.steps,
        color_correction=options.color_correction,
        correction=CorrectionConfig(strength=options.correction) if options.correction else None,
        resume=options.resume, overwrite=options.overwrite,
        device=device, dtype=dtype, attention=options.attention, compiled=options.compile,
        placement=placement_of(options), fleet=fleet,
    )  # fmt: skip
    render, name = prepare(settings)
    frames = render.session.plan.total_frames
    length = f"{frames} frames ({frames / FRAMES_PER_SECOND:.2f} s)"
    print(f"model {name}, {length} on {fleet or device}", file=sys.stderr)
    try:
        _watch(render)
    except BaseException as error:
        _say_where_the_partial_is(render, error)
        raise
    print(render.output)
    return 0


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--prompt-at {text!r}: needs a time in seconds, then the prompt") from None


def _watch(render: Render) -> None:
    """Render with a progress bar: frames, frames per second, realtime factor, time left."""
    with tqdm(total=render.session.plan.total_frames, unit="frame", smoothing=0.1, dynamic_ncols=True) as bar:
        for event in render.run():
            if isinstance(event, Frames):
                if bar.n == 0:
                    bar.initial = bar.last_print_n = bar.n = event.first
                bar.update(event.frames.shape[1])
                rate = bar.format_dict["rate"]
                bar.set_postfix_str(f"{rate / FRAMES_PER_SECOND:.2f}x realtime" if rate else "", refresh=False)


def _say_where_the_partial_is(render: Render, error: BaseException) -> None:
    partial = partial_path(render.output)
    if partial.exists():
        reason = "stopped" if isinstance(error, Cancelled) else "failed"
        print(f"{reason}; what is done plays: {partial}\ngo on with the same command and --resume", file=sys.stderr)
