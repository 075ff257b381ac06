"""The commands `evaluate` and `measurer`: from settings to rows and files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.nano import NAME
from ...errors import InputError
from ...files import check_readable, fault_of, shown, write_durably
from ...hardware.machine import describe
from ...presets import PRESETS
from ...shapes import FRAMES_PER_SECOND, WAN
from ..speech import SpeechFolder
from .accuracy import CONDITIONS, SECONDS, accuracy, report
from .entrants import DRAWN, Entrant
from .evaluate import Protocol, Row, evaluate
from .measurer import WEIGHTS, Measurer, load_measurer
from .outputs import check_outputs
from .photographs import PORTRAITS
from .report import save_plots, save_sheet
from .rollout import Outcome
from .round_trips import decibels, loss_table, pictures, round_trips
from .subjects import Cast, held_out_speech

LEAST_SECONDS = 2.0
"""Shorter streams say nothing of lip sync."""
MOST_SECONDS = 24 * 3600
"""The speech of a stream is made before its first frame."""


@dataclass(frozen=True)
class Settings:
    """What to evaluate, how long, and which files to leave. `speech`: a recording, or a folder of them;
    `photographs`: in place of drawn faces."""

    entrants: tuple[Entrant, ...]
    seconds: float = 20.0
    faces: int = 4
    seeds: int = 2
    speech: Path | None = None
    photographs: bool = False
    size: tuple[int, int] = (PRESETS["nano"].stream.height, PRESETS["nano"].stream.width)
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    json: Path | None = None
    plots: Path | None = None
    sheet: Path | None = None

    def __post_init__(self) -> None:
        if not LEAST_SECONDS <= self.seconds <= MOST_SECONDS:
            raise InputError(
                f"{self.seconds:g} s to evaluate; at least {LEAST_SECONDS:.0f} s are needed, and at most {MOST_SECONDS}"
            )
        WAN.check_size(*self.size)
        if min(self.faces, self.seeds, self.workers) < 1:
            raise InputError(f"{self.faces} faces, {self.seeds} seeds, {self.workers} workers; at least 1 of each")
        if self.photographs and self.faces > len(PORTRAITS):
            raise InputError(f"{self.faces} photographs to evaluate; there are {len(PORTRAITS)}")

    @property
    def streams(self) -> int:
        """How many streams are made."""
        return self.faces * (len(self.entrants) * self.seeds + 1)

    @property
    def protocol(self) -> Protocol:
        """The subjects and seeds of all entrants."""
        frames = round(self.seconds * FRAMES_PER_SECOND)
        cast = Cast(held_out_speech(self.speech), frames, self.size, photographed=self.photographs)
        return Protocol(cast, self.faces, self.seeds, self.workers, self.device, self.dtype)


QUICK = Settings((), seconds=10.0, faces=2, seeds=1)
"""What `--quick` stands for."""


def run(settings: Settings, done: Callable[[Outcome], object]) -> list[Row]:
    """Evaluate, and write the files that were asked for. `done` is called after each stream."""
    _check_files(settings)
    rows = evaluate(settings.entrants, settings.protocol, done)
    if settings.json:
        write_durably(settings.json, (json.dumps(_record(settings, rows), indent=1) + "\n").encode())
    if settings.plots:
        save_plots(settings.plots, rows)
    if settings.sheet:
        save_sheet(settings.sheet, rows)
    return rows


def round_trip_table(settings: Settings, trips: int) -> str:
    """What each entrant's VAE leaves of held-out faces and photographs after up to `trips` round trips."""
    if not 1 <= trips <= 10_000:
        raise InputError(f"{trips} round trips; 1 to 10000 are needed")
    _check_files(settings)
    faces = pictures(settings.protocol.cast, settings.faces)
    tables: list[str] = []
    for entrant in settings.entrants:
        vae, stream = entrant.codec()
        psnr = {name: decibels(round_trips(vae, picture, trips, stream), picture) for name, picture in faces.items()}
        tables.append(f"{entrant}\n{loss_table(psnr)}")
    return "\n\n".join(tables)


def _check_files(settings: Settings) -> None:
    """Raise an error for what cannot be read or measured, or not be written at the end, before hours are spent."""
    for entrant in settings.entrants:
        if entrant.model not in (NAME, DRAWN) and fault_of(Path(entrant.model), folders=True) is not None:
            raise InputError(
                f"no model at {shown(Path(entrant.model))}; needed is {NAME!r}, {DRAWN!r}, or a folder of weights"
            )
        for file in entrant.files:
            check_readable(file, "weights", "a safetensors file", InputError)
        entrant.check()
    check_outputs(settings.json, settings.sheet, settings.plots)


def _record(settings: Settings, rows: list[Row]) -> dict[str, Any]:
    return {
        "seconds": settings.seconds,
        "faces": settings.faces,
        "seeds": settings.seeds,
        "speech": "espeak-ng" if settings.speech is None else settings.speech.name,
        "subjects": "photographs" if settings.photographs else "drawn",
        "size": list(settings.size),
        "machine": describe(),
        "rows": [row.record() for row in rows],
    }


def measure_the_measurer(speech: SpeechFolder, subjects: int, size: tuple[int, int]) -> str:
    """A table of the measurer's errors on held-out people."""
    measurer, cast = load_measurer(), Cast(speech, SECONDS * FRAMES_PER_SECOND, size)
    return report({name: accuracy(measurer, cast, subjects, change) for name, change in CONDITIONS.items()})


def fit_measurer(folder: Path, steps: int) -> Path:
    """Train a measurer in `folder` (or go on with one), and put it in the place of the committed one."""
    from ..trainer import Schedule, Trainer, newest
    from .fitting import MeasurerTask, keep

    torch.manual_seed(0)  # of the first weights alone
    schedule = Schedule(steps, rate=2e-3, final_rate=0.005, warmup=50, ema=0.99, weight_decay=1e-4, sample_every=200)
    Trainer(MeasurerTask(Measurer()), schedule, folder).run()
    checkpoint = newest(folder)
    assert checkpoint is not None, "a finished run leaves a checkpoint"
    keep(checkpoint, WEIGHTS)
    return WEIGHTS
