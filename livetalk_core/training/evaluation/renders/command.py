"""`evaluate --video` and `evaluate --clips`: from settings to verdicts and files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....files import fault_of, shown, write_durably
from ....hardware.machine import describe
from ..outputs import check_outputs
from .judge import Judges, Verdict, judge, judge_all, videos_of
from .measure import as_record
from .report import save_plots, save_sheet, table


@dataclass(frozen=True)
class Settings:
    """One video, with the sound of `audio` where that is another file, or all of a folder; and the files to leave."""

    video: Path | None = None
    audio: Path | None = None
    clips: Path | None = None
    judges: Judges = field(default_factory=Judges)
    json: Path | None = None
    plots: Path | None = None
    sheet: Path | None = None

    def __post_init__(self) -> None:
        if (self.video is None) == (self.clips is None):
            raise InputError(
                f"video {self.video} and clips {self.clips}; needed is either --video FILE or --clips FOLDER"
            )
        if self.audio is not None and self.video is None:
            raise InputError(f"audio {self.audio} without a video; it belongs to one video: name that with --video")
        if self.judges.face is not None and self.video is None:
            raise InputError("--face is a place in one video; name that with --video, or leave the face out")


def paths_of(settings: Settings) -> list[Path]:
    """The videos to judge; what is missing or cannot be written is an error before any work."""
    for path in (settings.video, settings.audio):
        if path is not None and (fault := fault_of(path)) is not None:
            raise InputError(f"no file at {shown(path)}, which {fault}; needed is a video or its sound")
    settings.judges.check()
    check_outputs(settings.json, settings.sheet, settings.plots)
    return [settings.video] if settings.video is not None else videos_of(Path(settings.clips or ""))


def run(settings: Settings, paths: list[Path], done: Callable[[], object]) -> str:
    """Judge the videos `paths` and write the files that were asked for; what to print. `done` is called after each."""
    left_out: dict[str, str] = {}
    if settings.video is not None:
        verdicts = [judge(settings.video, settings.audio, settings.judges)]
        done()
    else:
        verdicts, left_out = judge_all(paths, settings.judges, done)
    if settings.json:
        write_durably(settings.json, (json.dumps(_record(verdicts, left_out), indent=1) + "\n").encode())
    if settings.plots:
        save_plots(settings.plots, verdicts)
    if settings.sheet:
        save_sheet(settings.sheet, verdicts)
    notes = [f"{verdict.name}: {verdict.note}" for verdict in verdicts if verdict.note]
    notes += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    return "\n".join([table(verdicts), *notes])


def _record(verdicts: list[Verdict], left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "machine": describe(),
        "left_out": left_out,
        "videos": [
            {
                "name": verdict.name,
                "seconds": verdict.seconds,
                "size": list(verdict.size),
                "face": [round(value, 1) for value in verdict.face],
                "note": verdict.note,
                "scores": as_record(verdict.scores),
            }
            for verdict in verdicts
        ],
    }
