"""A record of `bench` for people: lines for the terminal, and a table for the documentation."""

import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import OutputError
from ...files import write_durably


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    lines = [title(record)]
    for part, median, spread, share in _rows(record):
        lines.append(f"  {part:<24}{median:>12}   {f'({spread})':<24}{share and f'{share} of its rate'}".rstrip())
    lines.append(f"  {'chunk':<24}{record['chunk_seconds'] * 1000:>9.1f} ms   {_speed(record):.1f} frames/s")
    lines += [f"  {name:<24}{share:>12}   of the chunk" for name, share in _shares(record)]
    lines.append(f"  {'peak memory':<24}{record['peak_bytes'] / 2**30:>8.2f} GiB")
    return "\n".join(lines)


def title(record: dict[str, Any]) -> str:
    """What was measured."""
    width, height = record["size"]
    kernel = "" if record["attention"] in ("auto", "sdpa") else f", {record['attention']}"
    choices = kernel + ", compiled" * record["compiled"]
    return f"{record['preset']} at {width}x{height}, {record['dtype']}{choices}, on {record['device']}"


def table(record: dict[str, Any]) -> str:
    """The record as a section in Markdown."""
    machine, operations = record["machine"], record["operations"]
    lines = [
        f"### {title(record)}",
        "",
        f"{machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}, commit "
        f"{machine['commit'][:12]}. Measured in the same run: {record['matrix_operations_per_second'] / 1e9:.0f} G "
        f"operations/s in a matrix product, {record['copied_bytes_per_second'] / 1e9:.1f} GB/s copied. Share: how much "
        "of the median the counted operations, or reading the weights once, would take at these rates.",
        "",
        "| part | median | least .. most | operations | share |",
        "|---|---|---|---|---|",
    ]
    for part, median, spread, share in _rows(record):
        count = f"{operations[part] / 1e9:.1f} G" if part in operations else ""
        lines.append(f"| {part} | {median} | {spread} | {count} | {share} |")
    lines.append(f"| chunk | {record['chunk_seconds'] * 1000:.1f} ms | {_speed(record):.1f} frames/s | | |")
    lines += [f"| {name} | {share} of the chunk | | | |" for name, share in _shares(record)]
    return "\n".join(lines)


def update_document(path: Path, new: str) -> None:
    """Put a section, its title first, into a Markdown file: in place of the one of the same title, or at the end."""
    section = re.compile(rf"^{re.escape(new.splitlines()[0])}\n.*?(?=^#|\Z)", re.DOTALL | re.MULTILINE)
    text = read_document(path)
    changed = section.sub(lambda _: new + "\n\n", text) if section.search(text) else f"{text.rstrip()}\n\n{new}"
    write_durably(path, (changed.strip() + "\n").encode())


def read_document(path: Path) -> str:
    """A Markdown file's text, empty where there is none yet; `OutputError` for what is no text in UTF-8."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read {path} ({error}); needed is Markdown in UTF-8: choose another file") from error


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Part, median, spread and share of the floor, as text."""
    for part, seconds in record["seconds"].items():
        floor = record["floor_seconds"].get(part)
        share = "" if floor is None else f"{floor / seconds['median']:.0%}"
        spread = f"{seconds['least'] * 1000:.1f} .. {seconds['most'] * 1000:.1f}"
        yield part, f"{seconds['median'] * 1000:.1f} ms", spread, share


def _shares(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """When the first new frame leaves, and what neither transformer nor VAE takes, both as shares of their chunks."""
    iteration = record["iteration"]
    names = {"first frame leaves after": "first_frame_seconds", "sound, colour, video": "outside_seconds"}
    for name, part in names.items():
        shares = (spent / total for spent, total in zip(iteration[part], iteration["seconds"], strict=True))
        yield name, f"{statistics.median(shares):.0%}"


def _speed(record: dict[str, Any]) -> float:
    """New frames a second."""
    return record["new_frames"] / record["chunk_seconds"]
