"""What a preset needs, and the least time it could take on cards that are not here: counted, and nothing is run."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ...hardware.fit import Fit, fitting, usable
from ...hardware.memory import operations_of, readable
from ...hardware.placement import Placement, residence
from ...presets import Preset
from .stopwatch import DECODE, ENCODE, STEP

SIZES = ((512, 512), (768, 448))
"""(height, width) that are counted where no size is given."""
SMALL_CARDS = (8, 12, 16, 24)
"""Sizes of cards, in GB, of which it is said what fits."""
DTYPE = torch.bfloat16


class Card(NamedTuple):
    """A card's published rates: operations a second of dense bfloat16 products summed in float32, bytes a second."""

    name: str
    operations: float
    memory: float


CARDS = (
    # NVIDIA Ada GPU Architecture, appendix A: 165.2 TFLOPS (FP16 with FP32 accumulate, dense; bfloat16 the same).
    Card("RTX 4090", 165.2e12, 1008e9),
    # NVIDIA RTX Blackwell GPU Architecture, appendix A: 209.5 TFLOPS (bfloat16 with FP32 accumulate, dense).
    Card("RTX 5090", 209.5e12, 1792e9),
    # NVIDIA H200 data sheet: half of 1,979 TFLOPS, which are for sparse weights.
    Card("H200", 989.5e12, 4800e9),
)


def counted(preset: Preset, sized: bool) -> dict[str, Any]:
    """The record: a row for the preset's own size if it is `sized`, else for each of `SIZES`."""
    sizes = [(preset.stream.height, preset.stream.width)] if sized else SIZES
    return {
        "preset": preset.name,
        "steps": preset.stream.steps,
        "new_frames": preset.stream.new_frames,
        "dtype": str(DTYPE).removeprefix("torch."),
        "rates": [card._asdict() for card in CARDS],
        "sizes": [_counted(preset.sized(size)) for size in sizes],
    }


def _counted(preset: Preset) -> dict[str, Any]:
    stream = preset.stream
    operations = operations_of(preset, stream.height, stream.width, DTYPE)
    needed = residence(preset, DTYPE, Placement())
    weights = {part: needed.needed[f"{part.split()[0]} weights"] for part in operations}
    return {
        "size": [stream.width, stream.height],
        "operations": operations,
        "weight_bytes": weights,
        "memory": needed.needed,
        "at_once": needed.total,
        "at_once_fp8": residence(preset, DTYPE, Placement(fp8=True)).total,
        "floor_seconds": {
            card.name: {part: max(operations[part] / card.operations, weights[part] / card.memory) for part in weights}
            for card in CARDS
        },
        "fits": [[size, *_fits(preset, usable(size))] for size in SMALL_CARDS],
    }


def _fits(preset: Preset, free: int) -> Iterator[str]:
    """What fits in bfloat16, and in FP8."""
    for fp8 in (False, True):
        yield _said(fitting(preset, DTYPE, free, fp8))


def _said(fit: Fit | None) -> str:
    if fit is None:
        return "does not fit"
    kept = fit.residence
    blocks = "whole" if kept.blocks == kept.of else f"{kept.blocks} of {kept.of} blocks stay"
    return f"{blocks}, {readable(kept.total)}"


def chunk_of(parts: dict[str, float], steps: int) -> float:
    """What a chunk takes: its steps, its decoding, and the encoding of what the next one starts from."""
    return steps * parts[STEP] + parts[DECODE] + parts[ENCODE]


def title(record: dict[str, Any]) -> str:
    """What was counted."""
    return f"{record['preset']}, counted: {record['steps']} step(s) a chunk, {record['new_frames']} new frames"


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    return "\n".join([title(record), *(f"  {line}" for row in record["sizes"] for line in _lines(record, row))])


def _lines(record: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    width, height = row["size"]
    yield f"{width}x{height}: {readable(row['at_once'])} at once in bfloat16, {readable(row['at_once_fp8'])} in FP8"
    yield f"  {'':<18}{'operations':>12}{''.join(f'{card.name:>12}' for card in CARDS)}   (at least, by their rates)"
    for part, count, *floors in _floors(record, row):
        yield f"  {part:<18}{count:>12}{''.join(f'{floor:>12}' for floor in floors)}"
    for size, plain, fp8 in row["fits"]:
        yield f"  {size:>4} GB: bfloat16 {plain}; FP8 {fp8}"


def table(record: dict[str, Any]) -> str:
    """The record as a section in Markdown."""
    names = [card.name for card in CARDS]
    rates = ", ".join(f"{card.name} {card.operations / 1e12:.1f}, {card.memory / 1e9:,.0f}" for card in CARDS)
    lines = [
        f"### {title(record)}",
        "",
        "Nothing of it has run on these cards. At least: the counted operations, or reading the weights once, at their "
        f"published rates of dense bfloat16 products (TFLOP/s) and memory (GB/s): {rates}; at most so many new frames "
        "a second.",
        "",
        f"| size | part | operations | {' | '.join(f'at least, {name}' for name in names)} |",
        f"|---|---|---{'|---' * len(names)}|",
    ]
    for row in record["sizes"]:
        size = "x".join(map(str, row["size"]))
        lines += [f"| {size} | {' | '.join(cells)} |" for cells in _floors(record, row)]
    lines += ["", "| size | card, GB | bfloat16 | FP8 |", "|---|---|---|---|"]
    for row in record["sizes"]:
        size = "x".join(map(str, row["size"]))
        lines += [f"| {size} | {' | '.join(map(str, cells))} |" for cells in row["fits"]]
    return "\n".join(lines)


def _floors(record: dict[str, Any], row: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Part, operations, the least time on each card; a chunk of them, and the frames that it makes a second."""
    steps, floors = record["steps"], row["floor_seconds"]
    for part, count in row["operations"].items():
        yield part, _operations(count), *(f"{floors[card.name][part] * 1e3:.1f} ms" for card in CARDS)
    chunks = [chunk_of(floors[card.name], steps) for card in CARDS]
    yield "chunk", _operations(chunk_of(row["operations"], steps)), *(f"{seconds * 1e3:.0f} ms" for seconds in chunks)
    yield "new frames", "", *(f"{record['new_frames'] / seconds:.0f} /s" for seconds in chunks)


def _operations(count: float) -> str:
    return f"{count / 1e12:.2f} T" if count >= 1e11 else f"{count / 1e9:.2f} G"
