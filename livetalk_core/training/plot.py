"""Charts: a run's record, every recorded loss over the steps; and the page that all charts are drawn on."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICTURE = "record.png"
SMOOTHING = 0.9
NOT_PLOTTED = {"step", "seconds_a_step"}


def plot_record(folder: Path, record: str = "record.jsonl") -> Path:
    """Draw `folder`'s record; returns the picture's path."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (folder / record).read_text().splitlines()]
    names = sorted({name for row in rows for name in row} - NOT_PLOTTED)
    with charts(folder / PICTURE, len(names), "step") as axes:
        for axis, name in zip(axes, names, strict=True):
            steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
            axis.plot(steps, values, color="0.8", linewidth=0.8)
            axis.plot(steps, list(smoothed(values)), color="tab:blue", linewidth=1.2)
            axis.set_ylabel(name, fontsize=8)
    return folder / PICTURE


@contextmanager
def charts(path: Path, count: int, across: str) -> Iterator[Any]:
    """`count` axes below each other over the same values, which `across` names; saved to `path` at the end."""
    import matplotlib  # here: only plots need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(count, 1, figsize=(9, 1 + 1.8 * count), sharex=True, squeeze=False)
    yield axes[:, 0]
    axes[-1, 0].set_xlabel(across)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def smoothed(values: Iterable[float]) -> Iterable[float]:
    """An exponential average, its start corrected."""
    mean = weight = 0.0
    for value in values:
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * value, SMOOTHING * weight + 1 - SMOOTHING
        yield mean / weight
