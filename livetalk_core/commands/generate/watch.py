"""A render on the command line: prepared, watched, and what is said of it at the end."""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from ...config import DEFAULT_NEGATIVE_PROMPT, CorrectionConfig, Guidance
from ...errors import Cancelled, InputError, ResumeError, TakenError
from ...files import check_place
from ...hardware.fit import explained
from ...media.coding import Coding
from ...media.crop import Crop
from ...media.place import OutputPlace
from ...parallel.fleet import Fleet
from ...shapes import FRAMES_PER_SECOND
from ...streaming.render import Render
from ...streaming.session import Frames
from ..fleet import fleet_of
from ..loras import Lora
from ..options import device_and_dtype, placement_of
from ..prepare import Settings, prepare
from ..progress import show_stage, ticking
from .command import AUTO


def generate(options: argparse.Namespace) -> int:
    """Render as the options say; the exit code."""
    device, dtype = device_and_dtype(options)
    coding = Coding(options.codec, options.crf)
    with fleet_of(options, dtype) or nullcontext() as fleet:
        settings = Settings(
            image=options.image, audio=options.audio, model=options.model,
            output=options.output or Path(f"talk{coding.suffix}"), coding=coding,
            prompt=options.prompt, prompts_at=tuple((_seconds(at), prompt) for at, prompt in options.prompt_at),
            seed=options.seed, negative_prompt=options.negative_prompt or DEFAULT_NEGATIVE_PROMPT, patch=options.patch,
            guidance=Guidance(*options.guidance) if options.guidance else None,
            audio_mode=options.audio_mode, audio_offset=options.audio_offset,
            steps=options.steps, crop=Crop.parse(options.crop),
            size=None if options.size == AUTO else options.size, portrait_shape=options.size == AUTO,
            color_correction=options.color_correction,
            correction=CorrectionConfig(strength=options.correction) if options.correction else None,
            joins=options.join, loras=tuple(map(Lora.parse, options.lora)),
            resume=options.resume, overwrite=options.overwrite,
            device=device, dtype=dtype, attention=options.attention, compiled=options.compile,
            placement=placement_of(options), fleet=fleet,
        )  # fmt: skip
        return _render(settings, fleet)


def _render(settings: Settings, fleet: Fleet | None) -> int:
    place = OutputPlace(settings.output)
    if settings.resume and is_finished(place, settings.overwrite):
        print(f"{place.video} is already finished; --overwrite renders it anew", file=sys.stderr)
        print(place.video)
        return 0
    render, model = prepare(settings, show_stage)
    frames = render.session.plan.total_frames
    length = f"{frames} frames ({frames / FRAMES_PER_SECOND:.2f} s)"
    guidance = render.session.stream.guidance
    if settings.negative_prompt != DEFAULT_NEGATIVE_PROMPT and (guidance is None or guidance.text == 1):
        print("--negative-prompt is not heeded: there is no guidance by text (see --guidance)", file=sys.stderr)
    print(f"model {model}, {length} on {fleet or settings.device}", file=sys.stderr)
    preset = replace(model.preset, stream=render.session.stream)
    try:
        with explained(preset, settings.dtype, settings.device):
            _watch(render)
    except BaseException as error:
        if not place.finished:
            _say_where_the_partial_is(place, error)
            raise
        place.clear()  # it was stopped when all was done
    print(render.output)
    return 0


def is_finished(place: OutputPlace, overwrite: bool) -> bool:
    """Whether there is nothing to resume since the video is there; what a kill left beside it is cleared away."""
    check_place(place.video)
    done = place.finished or (place.video.is_file() and place.chunks is None and not overwrite)
    if done:
        with place.held():
            place.clear_ours()
    return done


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--prompt-at {text!r}: needs a time in seconds, then the prompt") from None


def _watch(render: Render) -> None:
    """Render with a progress bar: frames, frames per second, realtime factor, time left."""
    total = render.session.plan.total_frames
    with ticking(total=total, unit="frame", smoothing=0.1) as bar:
        for event in render.run():
            if isinstance(event, Frames):
                if bar.n == 0:
                    bar.initial = bar.last_print_n = bar.n = event.first
                bar.update(event.frames.shape[1])
                rate = bar.format_dict["rate"]
                bar.set_postfix_str(f"{rate / FRAMES_PER_SECOND:.2f}x realtime" if rate else "", refresh=False)


def _say_where_the_partial_is(place: OutputPlace, error: BaseException) -> None:
    """Nothing after a refusal, which says itself what to do."""
    if isinstance(error, (ResumeError, TakenError)) or not place.chunks or not place.partial.exists():
        return
    reason = "stopped" if isinstance(error, Cancelled) else "failed"
    print(f"{reason}; what is done plays: {place.partial}\ngo on with the same command and --resume", file=sys.stderr)
