"""The evaluation for people: a table, a contact sheet, charts."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...shapes import FRAMES_PER_SECOND
from ..plot import charts
from .evaluate import MISMATCHED, Row
from .metrics import Scores

OVER_TIME = (
    "lip_sync",
    "identity",
    "eyes",
    "hairline",
    "sharpness",
    "picture",
    "head_motion",
    "blinks",
    "border_motion",
)
EXAMPLE_SECONDS = 8


def table(rows: list[Row]) -> str:
    """Scores with their spread over the streams, a column for each row, and the ratio of the first two."""
    names = [row.name for row in rows]
    width = max(16, *(len(name) + 2 for name in names))
    lines = [f"{'':<22}" + "".join(f"{name:>{width}}" for name in names)]
    for metric in Scores._fields:
        cells = [f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in (row.spread(metric) for row in rows)]
        lines.append(f"{metric:<22}" + "".join(f"{cell:>{width}}" for cell in cells))
    played = [row for row in rows if row.name != MISMATCHED]
    for title, value in (("drift", _drift), ("growth", lambda row: f"{row.growth:.2f}"), ("processor s per s", _cost)):
        lines.append(f"{title:<22}" + "".join(f"{value(row):>{width}}" for row in played))
    return "\n".join(lines)


def _drift(row: Row) -> str:
    drift = torch.tensor(row.drift)
    return f"{float(drift.mean()):.3f} ± {float(drift.std(correction=0)):.3f}"


def _cost(row: Row) -> str:
    return f"{row.seconds_per_second:.2f}"


def save_sheet(path: Path, rows: list[Row]) -> None:
    """Pictures of every stream, time to the right; one entrant's streams below another's."""
    strips = [outcome.pictures for row in rows if row.name != MISMATCHED for outcome in row.outcomes]
    Image.fromarray(torch.cat([_strip(pictures) for pictures in strips]).numpy()).save(path)


def _strip(pictures: Tensor) -> Tensor:
    """[n,H,W,3] -> [H,n*W,3]."""
    return pictures.transpose(0, 1).flatten(1, 2)


def save_plots(folder: Path, rows: list[Row]) -> None:
    """`over_time.png`, each score of `OVER_TIME` window by window, and `mouth.png`, a mouth with its sound."""
    folder.mkdir(parents=True, exist_ok=True)
    played = [row for row in rows if row.name != MISMATCHED]
    with charts(folder / "over_time.png", len(OVER_TIME), "seconds") as axes:
        for axis, metric in zip(axes, OVER_TIME, strict=True):
            for row in played:
                _plot_over_time(axis, row, metric)
            axis.set_ylabel(metric.replace("_", "\n"), fontsize=8)
        axes[0].legend(fontsize=8)
    with charts(folder / "mouth.png", 1, "seconds") as (axis,):
        count = EXAMPLE_SECONDS * FRAMES_PER_SECOND
        courses = {"sound": rows[0].targets[0].mouth.opening}
        courses |= {row.name: row.outcomes[0].course.measures.opening for row in played}
        for name, course in courses.items():
            axis.plot(torch.arange(len(course))[:count] / FRAMES_PER_SECOND, course[:count], label=name)
        axis.set_ylabel("mouth opening", fontsize=8)
        axis.legend(fontsize=8)


def _plot_over_time(axis: Any, row: Row, metric: str) -> None:
    """Mean and spread of a score over the streams, at each window's middle."""
    values = torch.tensor([[getattr(scores, metric) for scores in windows] for windows in row.windows])
    seconds = (torch.arange(values.shape[1]) + 0.5) * row.outcomes[0].course.window / FRAMES_PER_SECOND
    mean, spread = values.mean(0), values.std(0, correction=0)
    (line,) = axis.plot(seconds, mean, marker="o", markersize=3, label=row.name)
    axis.fill_between(seconds, mean - spread, mean + spread, color=line.get_color(), alpha=0.2)
