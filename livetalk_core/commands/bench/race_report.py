"""A record of the race with the reference for people: lines for the terminal, and a table for the documentation."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

COMPARED = ("frames", "motion")
"""Of a chunk: its new frames, and the latents that the next one starts from."""


def title(record: dict[str, Any]) -> str:
    """What was measured."""
    width, height = record["size"]
    compiled = ", both compiled" if record["compiled"] else ""
    shape = f"{record['preset']} at {width}x{height}, {record['dtype']}"
    return f"Against the reference: {shape}, on {record['device']}{compiled}"


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    lines = [title(record), f"  {'':<18}{'reference':>12}{'ours':>12}   times faster (least .. most)   by operations"]
    for part, theirs, ours, faster, spread, expected in _rows(record):
        lines.append(f"  {part:<18}{theirs:>12}{ours:>12}   {f'{faster} ({spread})':<28}   {expected}")
    return "\n".join([*lines, *(f"  {line}" for line in _comparison(record))])


def table(record: dict[str, Any]) -> str:
    """The record as a section in Markdown."""
    machine, reference = record["machine"], record["reference"]
    lines = [
        f"### {title(record)}",
        "",
        f"{machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}, commit "
        f"{machine['commit'][:12]}; {reference['repository']} at {reference['commit'][:7]}. Whole chunks of "
        f"{record['frames']} frames and {record['steps']} steps in turn, the parts timed inside; same weights, inputs, "
        f"noise and attention. {' '.join(_comparison(record))}",
        "",
        "| part | reference | ours | times faster | least .. most | by counted operations |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in _rows(record))])


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for part, figures in record["parts"].items():
        faster = figures["faster"]
        medians = (f"{statistics.median(figures[side]):.3f} s" for side in ("reference", "ours"))
        spread = f"{faster['least']:.2f} .. {faster['most']:.2f}, {len(figures['ours'])} runs"
        yield part, *medians, f"{faster['median']:.2f}", spread, f"{figures['faster_by_operations']:.2f}"


def _comparison(record: dict[str, Any]) -> Iterator[str]:
    for name in COMPARED:
        worst = max((errors[name] for errors in record["errors"]), key=lambda error: _sortable(error["error"]))
        yield f"Largest difference of {name}: {worst['error']:.1e} (values up to {worst['of']:.1f})."


def _sortable(error: float) -> float:
    return math.inf if math.isnan(error) else error
