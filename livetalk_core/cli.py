"""The command line: `python -m livetalk_core COMMAND`; `parser` lists the commands."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import __version__, bench_against
from .bench import bench
from .bench_report import report, table, update_document
from .checkpoints.convert import convert
from .config import DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT, PRESETS, CorrectionConfig, Guidance
from .errors import Cancelled, InputError, LiveTalkError
from .files import check_place, write_durably
from .fleets import fleet_of, fleet_options
from .generate import Settings, prepare
from .info import inspect
from .kernels import KERNELS
from .machine import choose_device
from .media.video import partial_path
from .parallel.devices import parse_devices
from .parallel.fleet import Fleet, Limits, local_fleet
from .placement import Placement
from .runners import run_worker, worker_options
from .shapes import FRAMES_PER_SECOND
from .streaming.features import MODES
from .streaming.render import Render
from .streaming.session import Frames
from .verify import Row, verify, verify_split

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNITS = {"M": 2**20, "G": 2**30}
INTERRUPTED = 130
TRAINING_PACKAGES = ("accelerate", "matplotlib", "tomli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 an error that the message explains, 130 stopped by the user."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except LiveTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        print(f"error: {error.name} is missing; needed: `pip install -r requirements-training.txt`", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="livetalk_core", description="One portrait and any speech in, a talking video out."
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(required=True, metavar="command")
    for name, run, fill in (
        ("generate", run_generate, _generate_options),
        ("verify", run_verify, _verify_options),
        ("convert", run_convert, _convert_options),
        ("info", run_info, _info_options),
        ("bench", run_bench, _bench_options),
        ("train", run_train, _train_options),
        ("evaluate", run_evaluate, _evaluate_options),
        ("measurer", run_measurer, _measurer_options),
        ("worker", run_worker, worker_options),
    ):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        fill(command)
    return root


def size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` -> (height, width)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT, such as 448x768")
    return int(height), int(width)


def memory(text: str) -> int:
    """`16G` or `512M` -> bytes."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in UNITS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write a number and a unit, such as 14G")
    return int(number) * UNITS[unit]


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; a whole number of at least 1 is needed")
    return int(text)


def _machine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    command.add_argument("--dtype", choices=DTYPES, help="of the weights (default: bfloat16 on GPUs, float32 on CPUs)")


def _speed_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--attention", choices=("auto", *KERNELS), default="auto",
        help="kernel (default: auto, the fastest exact one here; sage trades precision for speed)",
    )  # fmt: skip
    command.add_argument(
        "--compile", action="store_true",
        help="have torch.compile make one graph of a step: slow to begin (a minute or more), faster afterwards",
    )  # fmt: skip


def _placement_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fp8", action="store_true",
        help="the blocks' linear layers in FP8: half the memory, faster on GPUs that have it, not exact",
    )  # fmt: skip
    command.add_argument(
        "--memory", type=memory, metavar="SIZE",
        help="most to hold on the device, such as 14G for a card of 16 GB: blocks beyond it stay in main memory",
    )  # fmt: skip


def _placement(options: argparse.Namespace) -> Placement:
    return Placement(options.fp8, options.memory)


def _device_and_dtype(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    device = choose_device(options.device)
    return device, DTYPES[options.dtype or ("float32" if device.type == "cpu" else "bfloat16")]


def _generate_options(command: argparse.ArgumentParser) -> None:
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
    _machine_options(command)
    fleet_options(command)
    _speed_options(command)
    _placement_options(command)


def run_generate(options: argparse.Namespace) -> int:
    """Render a talking video."""
    device, dtype = _device_and_dtype(options)
    with _stoppable(), fleet_of(options, dtype) or nullcontext() as fleet:
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
        placement=_placement(options), fleet=fleet,
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


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and a polite kill both stop between two steps' instructions; what is done stays."""

    def stop(*_: Any) -> None:
        raise Cancelled

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _verify_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="golden files")
    command.add_argument(
        "--ranks", type=int, help="split the models over so many processes, in every way (ulysses x ring) that fits"
    )


def run_verify(options: argparse.Namespace) -> int:
    """Check the models against golden files of the reference."""
    if options.ranks is None:
        return _print_rows(options.files, verify)
    devices = parse_devices(f"cpu x{options.ranks}")
    limits = Limits(silence=60)  # several workers on one core are slow, and not lost
    with _stoppable(), local_fleet(devices, "verify", limits=limits) as fleet:
        return _print_rows(options.files, lambda path: verify_split(path, options.ranks, fleet))


def _print_rows(files: Sequence[Path], rows_of: Callable[[Path], Iterator[Row]]) -> int:
    failed = 0
    for path in files:
        for row in rows_of(path):
            verdict = "ok" if row.passed else "FAILED"
            line = f"{path.stem:<14} {row.name:<20} {row.error:.2e}  (at most {row.tolerance:.0e})  {verdict:<6}"
            print(f"{line}  {row.split}".rstrip(), flush=True)
            failed += not row.passed
    if failed:
        print(f"{failed} row(s) failed", file=sys.stderr)
    return 1 if failed else 0


def _convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, help="a .pth file, a sharded or single safetensors file, or a folder")
    command.add_argument("output", type=Path, help="the safetensors file to write")
    command.add_argument("--fp8", action="store_true", help="scale the blocks' large weights to FP8 (e4m3)")


def run_convert(options: argparse.Namespace) -> int:
    """Convert weights: .pth to safetensors, shards to one file, bfloat16 to scaled FP8."""
    print(convert(options.source, options.output, fp8=options.fp8))
    return 0


def _info_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", nargs="?", default="nano", help="'nano', '14b', or a file or folder of weights")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the model's)")
    _machine_options(command)
    _placement_options(command)


def run_info(options: argparse.Namespace) -> int:
    """Say what a checkpoint holds, what this machine can run, and the memory that it needs."""
    device, dtype = _device_and_dtype(options)
    print("\n".join(inspect(options.model, device, dtype, options.size, _placement(options))))
    return 0


def _bench_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", choices=PRESETS, default="nano", help="shape of the model (default: nano)")
    command.add_argument("--size", type=size, help="WIDTHxHEIGHT in pixels (default: the preset's)")
    command.add_argument("--repeats", type=positive, default=5, help="timed runs of each part (default: 5)")
    command.add_argument(
        "--against", type=Path, metavar="PATH",
        help="run whole chunks in turn with the reference implementation, of which PATH is a checkout",
    )  # fmt: skip
    command.add_argument("--json", type=Path, help="also keep the record in this file")
    command.add_argument("--document", type=Path, help="also put the table into this Markdown file")
    _machine_options(command)
    _speed_options(command)
    _placement_options(command)


def run_bench(options: argparse.Namespace) -> int:
    """Time each part of the model on this machine."""
    for path in filter(None, (options.json, options.document)):
        check_place(path)
    device, dtype = _device_and_dtype(options)
    preset, speed = PRESETS[options.preset].sized(options.size), (options.attention, options.compile)
    if options.against and _placement(options):
        raise InputError("--against compares with the same weights on one device; leave out --fp8 and --memory")
    if options.against:
        record = bench_against.race(options.against, preset, device, dtype, options.repeats, *speed)
        lines, section = bench_against.report(record), bench_against.table(record)
    else:
        record = bench(preset, device, dtype, options.repeats, *speed, _placement(options))
        lines, section = report(record), table(record)
    print(lines)
    if options.json:
        write_durably(options.json, (json.dumps(record, indent=1) + "\n").encode())
    if options.document:
        update_document(options.document, section)
    return 0


def _train_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("stage", choices=("speech", "vae", "audio", "image", "prepare", "adapt", "distill"))
    command.add_argument("--config", type=Path, required=True, help="a TOML file; ours are in training/configs")
    command.add_argument("--output", type=Path, help="folder of the run; an unfinished run there goes on")
    command.add_argument("--export", type=Path, metavar="FILE", help="write the trained weights here at the end")


def run_train(options: argparse.Namespace) -> int:
    """Train a model: its speech data, its parts, stage 1 (adapt) and stage 2 (distill)."""
    from .training import commands
    from .training.settings import read_settings

    if options.export:
        check_place(options.export)
    settings = read_settings(options.config)
    with _stoppable():
        if options.stage in commands.PREPARATIONS:
            for made in commands.PREPARATIONS[options.stage](settings):
                print(made)
            return 0
        if options.output is None:
            raise InputError(f"train {options.stage} has no --output; a folder for its checkpoints is needed")
        print(commands.train(options.stage, settings, options.output))
        if options.export:
            print(commands.export(options.stage, settings, options.output, options.export))
    return 0


def _evaluate_options(command: argparse.ArgumentParser) -> None:
    entrant = (
        "MODEL[,steps=N][,guidance=G][,color=C][,correction=STRENGTH][,disturbance=SIGMA][,fp8=1]"
        "[,transformer=FILE][,vae=FILE]"
    )
    command.add_argument("--model", default="nano", metavar="ENTRANT", help=f"{entrant}; MODEL: 'nano' or a folder")
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="ENTRANT",
        help="another to compare; can be repeated",
    )
    command.add_argument("--quick", action="store_true", help="2 faces, 1 seed, 10 s each unless given otherwise")
    command.add_argument("--seconds", type=float, help="of each stream (default: 20)")
    command.add_argument("--faces", type=int, help="held-out people (default: 4)")
    command.add_argument("--seeds", type=int, help="of noise for each of them (default: 2)")
    command.add_argument("--speech", type=Path, help="a recording, or a folder of them (default: made by espeak-ng)")
    command.add_argument("--size", type=size, default=(128, 128), help="WIDTHxHEIGHT in pixels (default: 128x128)")
    command.add_argument("--workers", type=int, default=1, help="streams at a time, each in a process (default: 1)")
    command.add_argument("--json", type=Path, help="keep all figures in this file")
    command.add_argument("--plots", type=Path, help="folder for charts over time")
    command.add_argument("--sheet", type=Path, help="PNG of frames to look at: a row for each stream")
    _machine_options(command)


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure how well a model talks: lip sync, identity, liveliness, picture, and all of it over time."""
    from .training.evaluation import command, report
    from .training.evaluation.entrants import Entrant

    device, dtype = _device_and_dtype(options)
    default = command.QUICK if options.quick else command.Settings(())
    names = ("seconds", "faces", "seeds")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = replace(
        default, entrants=tuple(map(Entrant.parse, (options.model, *options.against))), speech=options.speech,
        size=options.size, workers=options.workers, device=device, dtype=dtype, json=options.json,
        plots=options.plots, sheet=options.sheet, **given,
    )  # fmt: skip
    with _stoppable(), tqdm(total=settings.streams, unit="stream", dynamic_ncols=True) as bar:
        rows = command.run(settings, lambda _: bar.update())
    print(report.table(rows))
    return 0


def _measurer_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--train", type=Path, metavar="FOLDER", help="train a new one in this folder, or go on there")
    command.add_argument("--steps", type=positive, default=1000, help="of training (default: 1000)")
    command.add_argument("--faces", type=positive, default=16, help="held-out people to measure (default: 16)")
    command.add_argument("--speech", type=Path, help="a recording, or a folder of them (default: made by espeak-ng)")


def run_measurer(options: argparse.Namespace) -> int:
    """Say how well the measurer of `evaluate` measures; with --train, make a new one first."""
    from .training.evaluation import command

    if options.train:
        print(command.fit_measurer(options.train, options.steps))
    print(command.measure_the_measurer(options.speech, options.faces, (128, 128)))
    return 0
