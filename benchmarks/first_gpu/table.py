"""A record as Markdown, whatever of it was measured."""

from typing import Any

from . import plan

GIB = 2**30
PARTS = ("transformer step", "VAE decode", "first frame of decode", "VAE encode")


def table(record: dict[str, Any]) -> str:
    """The whole record as a section for docs/performance.md."""
    rows = record["rows"]
    machine = rows.get(plan.MACHINE, {}).get("values", {})
    lines = [
        f"### First run: {record['preset']} on {machine.get('gpu') or record['device']}",
        "",
        _machine(machine),
        "",
    ]
    lines += [f"- {name}: {_golden(rows[name])}" for name in (plan.EXACT, plan.LOSSY) if name in rows]
    lines += [f"- {name}: {_status(rows[name])}" for name in (plan.TESTS, plan.REFERENCE) if name in rows]
    lines += ["", *_attention(rows[plan.ATTENTION])] if plan.ATTENTION in rows else []
    lines += ["", *_passes(rows[plan.PASSES])] if plan.PASSES in rows else []
    if models := [name for name in plan.MODELS if name in rows]:
        lines += ["", "| | " + " | ".join(models) + " |", "|---" * (1 + len(models)) + "|"]
        lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in _models([rows[m] for m in models])]
    return "\n".join(lines)


def _machine(values: dict[str, Any]) -> str:
    about = values.get("machine", {})
    rates = [
        f"{values[name] / unit:.0f} {label}"
        for name, unit, label in (
            ("matrix_operations_per_second", 1e9, "G operations/s in a bfloat16 product"),
            ("copied_bytes_per_second", 1e9, "GB/s copied"),
        )
        if name in values
    ]
    parts = [about.get("processor", "machine not measured"), f"torch {about.get('torch', '?')}", *rates]
    return f"{', '.join(parts)}; commit {about.get('commit', '?')[:12]}."


def _status(row: dict[str, Any]) -> str:
    return row["values"].get("summary", row["status"])


def _golden(row: dict[str, Any]) -> str:
    compared = {name: value for name, value in row["values"].items() if isinstance(value, dict)}
    passed = sum(value["error"] <= value["allowed"] for value in compared.values())
    failed = [name for name, value in compared.items() if not value["error"] <= value["allowed"]]
    failed += [f"{name} ({value})" for name, value in row["values"].items() if isinstance(value, str)]
    said = f"{passed} of {passed + len(failed)} within what is allowed"
    return "; not: ".join([said, *[", ".join(failed)] * bool(failed)]) + f" ({row['status']})"


def _attention(row: dict[str, Any]) -> list[str]:
    lines = ["| attention | error | ms | share of the matrix rate |", "|---|---|---|---|"]
    for name, value in row["values"].items():
        if isinstance(value, str):
            lines.append(f"| {name} | {value.replace('|', '/')} | | |")
        else:
            lines.append(f"| {name} | {value['error']:.2%} | {value['ms']:.2f} | {value['share_of_rate']:.0%} |")
    return lines if row["values"] else [f"- {plan.ATTENTION}: {row['status']}"]


def _passes(row: dict[str, Any]) -> list[str]:
    values = dict(row["values"])
    used = ", ".join(f"{part} by {way}" for part, way in values.pop("used", {}).items())
    lines = [f"- {plan.PASSES}: {used or 'nothing tried'} ({row['status']})"]
    if values:
        lines += ["", "| by Triton | error | ms | PyTorch's own, ms |", "|---|---|---|---|"]
    for name, value in values.items():
        if isinstance(value, str):
            lines.append(f"| {name} | {value.replace('|', '/')} | | |")
        else:
            lines.append(f"| {name} | {value['error']:.2%} | {value['ms']:.2f} | {value['plain_ms']:.2f} |")
    return lines


def _models(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What was measured of each way, one line a value."""
    lines = [("state", [row["status"].replace("|", "/") for row in rows])]
    for part in PARTS:
        lines.append((part, [_seconds(row["values"].get(part)) for row in rows]))
    lines.append((f"first {PARTS[0]}", [_first(row["values"].get(PARTS[0])) for row in rows]))
    lines.append((f"first {PARTS[1]}", [_first(row["values"].get(PARTS[1])) for row in rows]))
    lines.append(("GPU computes during a step", [_share(row["values"].get("busy")) for row in rows]))
    lines.append(("chunk", [_chunk(row["values"].get("chunk")) for row in rows]))
    for name, key in (
        ("peak memory", "peak_bytes"),
        ("reserved", "reserved_bytes"),
        ("as `info` counts", "info_bytes"),
    ):
        sizes = [row["values"].get(key) for row in rows]
        lines.append((name, [_size(size) for size in sizes]))
    return lines


def _seconds(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    share = f", {value['share_of_rate']:.0%} of the rate" if "share_of_rate" in value else ""
    return f"{value['median'] * 1e3:.1f} ms{share}"


def _first(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['first_seconds']:.1f} s"


def _share(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.0%}"


def _size(value: int | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value / GIB:.2f} GiB"


def _chunk(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} s, {value['frames_per_second']:.1f} frames/s"
