"""A record of `bench` for people: lines for the terminal, and a table for the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    lines = [title(record)]
    for part, median, spread, share in _rows(record):
        lines.append(f"  {part:<24}{median:>12}   {f'({spread})':<24}{share and f'{share} of its rate'}".rstrip())
    lines.append(f"  {'chunk':<24}{record['chunk_seconds'] * 1000:>9.1f} ms   {_speed(record):.1f} frames/s")
    lines.append(f"  {'peak memory':<24}{record['peak_bytes'] / 2**30:>8.2f} GiB")
    return "\n".join(lines)


def title(record: dict[str, Any]) -> str:
    """What was measured."""
    width, height = record["size"]
    return f"{record['preset']} at {width}x{height}, {record['dtype']}, on {record['device']}"


def table(record: dict[str, Any]) -> str:
    """The record in Markdown, without its title."""
    machine, operations = record["machine"], record["operations"]
    lines = [
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
    return "\n".join(lines)


def update_document(path: Path, record: dict[str, Any]) -> None:
    """Put the record's table into a Markdown file, in place of the one of the same title, or at the end."""
    put_section(path, title(record), table(record))


def put_section(path: Path, title: str, text: str) -> None:
    """Put `text` under its title into a Markdown file, in place of the section of the same title, or at the end."""
    heading = f"### {title}"
    new = f"{heading}\n\n{text}"
    section = re.compile(rf"^{re.escape(heading)}\n.*?(?=^#|\Z)", re.DOTALL | re.MULTILINE)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        changed = section.sub(lambda _: new + "\n\n", text) if section.search(text) else f"{text.rstrip()}\n\n{new}"
        path.write_text(changed.strip() + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another file") from error


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Part, median, spread and share of the floor, as text."""
    for part, seconds in record["seconds"].items():
        floor = record["floor_seconds"].get(part)
        share = "" if floor is None else f"{floor / seconds['median']:.0%}"
        spread = f"{seconds['least'] * 1000:.1f} .. {seconds['most'] * 1000:.1f}"
        yield part, f"{seconds['median'] * 1000:.1f} ms", spread, share


def _speed(record: dict[str, Any]) -> float:
    """New frames a second."""
    return record["new_frames"] / record["chunk_seconds"]
