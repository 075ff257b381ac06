"""Verdicts for people: a table, charts, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ....shapes import FRAMES_PER_SECOND
from ...detection import Face
from ...plot import charts
from .judge import Verdict
from .measure import as_record
from .views import EYES, LIPS

OVER_TIME = ("likeness", "eyes", "mouth", "sharpness", "mouth_detail", "flicker", "color", "change")
SHEET_HEIGHT = 192
NOT_IN_TABLE = {"curve"}


def rows_of(verdict: Verdict) -> dict[str, Any]:
    """All scores of a video, flat: those of a group are named after it."""
    rows: dict[str, Any] = {}
    for name, value in as_record(verdict.scores).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows |= {f"{name} {part}".strip().replace("_", " "): score for part, score in parts if part not in NOT_IN_TABLE}
    return rows


def table(verdicts: Sequence[Verdict]) -> str:
    """A line a score, a column a video; `-` where nothing was measured."""
    columns = [rows_of(verdict) for verdict in verdicts]
    width = max(12, *(len(verdict.name) + 2 for verdict in verdicts))
    names = {name: None for column in columns for name in column}
    first = max(map(len, names)) + 2
    lines = ["".join([" " * first, *(f"{verdict.name:>{width}}" for verdict in verdicts)])]
    for name in names:
        lines.append("".join([f"{name:<{first}}", *(f"{_cell(column.get(name)):>{width}}" for column in columns)]))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def save_plots(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """`over_time.png`, each series of `OVER_TIME` second by second, and `lip_sync.png`, lip sync over the lag."""
    folder.mkdir(parents=True, exist_ok=True)
    with charts(folder / "over_time.png", len(OVER_TIME), "seconds") as axes:
        for axis, series in zip(axes, OVER_TIME, strict=True):
            for verdict in verdicts:
                course = _by_second(verdict.courses[series])
                axis.plot(torch.arange(len(course)) + 0.5, course, marker="o", markersize=2, label=verdict.name)
            axis.set_ylabel(series.replace("_", "\n"), fontsize=8)
        axes[0].legend(fontsize=8)
    with charts(folder / "lip_sync.png", 1, "frames by which the mouth is late") as (axis,):
        for verdict in verdicts:
            curve = verdict.scores.sync.curve
            axis.plot([place - len(curve) // 2 for place in range(len(curve))], curve, label=verdict.name)
        axis.set_ylabel("lip sync", fontsize=8)
        axis.legend(fontsize=8)


def _by_second(course: Tensor) -> Tensor:
    """The mean of every full second."""
    seconds = len(course) // FRAMES_PER_SECOND
    return course[: seconds * FRAMES_PER_SECOND].unflatten(0, (seconds, -1)).mean(1)


def save_sheet(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Pictures of every video, a row each, time to the right; in the first one what was looked at is framed."""
    strips = [_strip(verdict) for verdict in verdicts]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(path)


def _strip(verdict: Verdict) -> Image.Image:
    scale = SHEET_HEIGHT / verdict.size[0]
    size = (SHEET_HEIGHT, round(verdict.size[1] * scale))
    pictures = F.interpolate(verdict.pictures, size, mode="bilinear", antialias=True)
    pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte()
    strip = Image.fromarray(pixels.permute(2, 0, 3, 1).flatten(1, 2).numpy())
    draw = ImageDraw.Draw(strip)
    for part, color in (((0, 0, 1, 1), "yellow"), (EYES, "cyan"), (LIPS, "red")):
        draw.rectangle(_corners(verdict.face, part, scale), outline=color)
    return strip


def _corners(face: Face, part: tuple[float, float, float, float], scale: float) -> list[float]:
    return [value * scale for value in (*face.at(*part[:2]), *face.at(*part[2:]))]
