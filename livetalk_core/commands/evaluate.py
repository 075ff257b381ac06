"""The command `evaluate`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .options import device_and_dtype, machine_options, positive, size, stoppable
from .progress import show_stage, ticking

OF_VIDEOS: dict[str, Any] = dict.fromkeys(("audio", "reference", "face", "syncnet", "embedder"))
OF_MODELS: dict[str, Any] = {
    "model": "nano", "against": [], "quick": False, "seconds": None, "faces": None, "seeds": None, "speech": None,
    "photographs": False, "round_trips": None,
}  # fmt: skip
"""Options of one kind of evaluation alone, and their values where they are not given."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    entrant = (
        "MODEL[,steps=N][,guidance=G][,color=C][,correction=STRENGTH][,disturbance=SIGMA][,fp8=1][,revisions=N]"
        "[,transformer=FILE][,vae=FILE][,lora=FILE][,strength=S]"
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
    command.add_argument("--faces", type=positive, help="held-out people (default: 4)")
    command.add_argument("--seeds", type=positive, help="of noise for each of them (default: 2)")
    command.add_argument("--speech", type=Path, help="a recording, or a folder of them (default: made by espeak-ng)")
    command.add_argument(
        "--photographs", action="store_true", help="let photographs (of scikit-image, matplotlib) speak, no drawn faces"
    )
    command.add_argument(
        "--round-trips", type=int, metavar="N", help="instead: what the VAE leaves of pictures after N round trips"
    )
    _render_options(command)
    command.add_argument("--size", type=size, default=(128, 128), help="WIDTHxHEIGHT in pixels (default: 128x128)")
    command.add_argument(
        "--workers", type=positive, default=1, help="streams at a time, each in a process (default: 1)"
    )
    command.add_argument("--json", type=Path, help="keep all figures in this file")
    command.add_argument("--plots", type=Path, help="folder for charts over time")
    command.add_argument("--sheet", type=Path, help="PNG of frames to look at: a row for each stream")
    machine_options(command)


def _render_options(command: argparse.ArgumentParser) -> None:
    renders = command.add_argument_group("instead of a model: videos by any tool")
    renders.add_argument("--video", type=Path, metavar="FILE", help="judge this video")
    renders.add_argument("--audio", type=Path, metavar="FILE", help="its sound, where that is another file")
    renders.add_argument("--clips", type=Path, metavar="FOLDER", help="judge all videos of a folder")
    renders.add_argument("--reference", type=Path, metavar="PICTURE", help="the portrait (default: the first frame)")
    renders.add_argument("--face", metavar="LEFT,TOP,WIDTH,HEIGHT", help="its place in pixels (default: it is sought)")
    renders.add_argument(
        "--syncnet", type=Path, nargs=2, metavar=("LIPS", "SOUND"), help="SyncNet's two networks, TorchScript or ONNX"
    )
    renders.add_argument("--embedder", type=Path, metavar="FILE", help="a face embedder, TorchScript or ONNX")


def run(options: argparse.Namespace) -> int:
    """Measure how well a model, or any video, talks: lip sync, identity, liveliness, picture, all of it over time."""
    judging = options.video is not None or options.clips is not None
    _check_together(options, judging)
    return _judge(options) if judging else _measure(options)


def _check_together(options: argparse.Namespace, judging: bool) -> None:
    """Raise `InputError` for options of the other kind of evaluation."""
    foreign = OF_MODELS if judging else OF_VIDEOS
    named = [name for name, default in foreign.items() if getattr(options, name) != default]
    if named:
        needs = "a model, and no --video or --clips" if judging else "videos: --video FILE or --clips FOLDER"
        raise InputError(f"--{named[0].replace('_', '-')} is for {needs}; leave it out, or choose the other")


def _judge(options: argparse.Namespace) -> int:
    with show_stage("starting"):
        from ..training.detection import Face
        from ..training.evaluation.renders import command
        from ..training.evaluation.renders.judge import Judges

    face = None if options.face is None else Face.parse(options.face)
    syncnet = None if options.syncnet is None else (options.syncnet[0], options.syncnet[1])
    settings = command.Settings(
        options.video, options.audio, options.clips, Judges(options.reference, face, syncnet, options.embedder),
        options.json, options.plots, options.sheet,
    )  # fmt: skip
    paths = command.paths_of(settings)
    with stoppable(), ticking(total=len(paths), unit="video") as bar:
        report = command.run(settings, paths, bar.update)
    print(report)
    return 0


def _measure(options: argparse.Namespace) -> int:
    with show_stage("starting"):
        from ..training.evaluation import command, report
        from ..training.evaluation.entrants import Entrant

    device, dtype = device_and_dtype(options)
    default = command.QUICK if options.quick else command.Settings(())
    names = ("seconds", "faces", "seeds")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = replace(
        default, entrants=tuple(map(Entrant.parse, (options.model, *options.against))), speech=options.speech,
        photographs=options.photographs,
        size=options.size, workers=options.workers, device=device, dtype=dtype, json=options.json,
        plots=options.plots, sheet=options.sheet, **chosen,
    )  # fmt: skip
    if options.round_trips is not None:
        with stoppable():
            with show_stage("round trips"):
                table = command.round_trip_table(settings, options.round_trips)
            print(table)
        return 0
    with stoppable(), ticking(total=settings.streams, unit="stream") as bar:
        rows = command.run(settings, lambda _: bar.update())
    print(report.table(rows))
    return 0
