"""Everything that a first GPU has to show, in eight minutes: `make gpu`, or `python -m benchmarks.first_gpu`.

Needs this repository and PyTorch; what else is missing is said in the row that needs it. Each row has a time of its
own, and is kept in the record as soon as it is measured: stopped at any moment, the record holds what there is. At the
end it prints a table; `--table RECORD` prints that of an earlier run, of one that was cut off too.
"""

import argparse
import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from .plan import LIMIT, ROWS, Row
from .supervisor import Record, measure
from .table import table


def chosen(names: list[str]) -> list[Row]:
    """The rows of these names; all of them without any."""
    return [row for row in ROWS if not names or row.name in names]


def device_of(asked: str) -> str:
    """The device; `auto` is the first GPU, or the CPU where there is none."""
    if asked != "auto":
        return asked
    import torch  # takes seconds

    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> int:
    """Measure, or print the table of a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {'; '.join(row.name for row in ROWS)}")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu (default: a GPU where there is one)")
    parser.add_argument("--preset", help="shape of the model (default: 14b on a GPU, nano on a CPU)")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds of the whole run (default: {LIMIT})")
    parser.add_argument("--reference", type=Path, help="a checkout of SoulX-FlashTalk at df95a36, to run beside it")
    parser.add_argument("--json", type=Path, default=Path("first_gpu.json"), help="the record (default: %(default)s)")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="measure nothing: print this record's table")
    options = parser.parse_args()
    if unknown := set(options.rows) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; the rows: {'; '.join(row.name for row in ROWS)}")
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return 0
    begun, device = time.monotonic(), device_of(options.device)
    preset = options.preset or ("nano" if device == "cpu" else "14b")
    rows, now = chosen(options.rows), datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record.of(options.json, rows, preset=preset, device=device, begun=now)
    reference = options.reference and str(options.reference.resolve())
    settings = {"device": device, "preset": preset, "reference": reference}
    measure(rows, record, settings, options.limit - (time.monotonic() - begun))
    print(f"\n{table(json.loads(options.json.read_text()))}\n\nThe record is {options.json}: docs/performance.md says "
          "where to send it")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
