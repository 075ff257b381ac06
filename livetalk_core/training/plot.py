"""A run's record as a picture: every recorded loss over the steps."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PICTURE = "record.png"
SMOOTHING = 0.9
NOT_PLOTTED = {"step", "seconds_a_step"}


def plot_record(folder: Path, record: str = "record.jsonl") -> Path:
    """Draw `folder`'s record; returns the picture's path."""
    import matplotlib  # here: only plots need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / record).read_text().splitlines()]
    names = sorted({name for row in rows for name in row} - NOT_PLOTTED)
    figure, axes = pyplot.subplots(len(names), 1, figsize=(9, 1.8 * len(names)), sharex=True, squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
        axis.plot(steps, values, color="0.8", linewidth=0.8)
        axis.plot(steps, list(smoothed(values)), color="tab:blue", linewidth=1.2)
        axis.set_ylabel(name, fontsize=8)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(folder / PICTURE, dpi=90)
    pyplot.close(figure)
    return folder / PICTURE


def smoothed(values: Iterable[float]) -> Iterable[float]:
    """An exponential average, its start corrected."""
    mean = weight = 0.0
    for value in values:
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * value, SMOOTHING * weight + 1 - SMOOTHING
        yield mean / weight
