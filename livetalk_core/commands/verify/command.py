"""The command `verify`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ..options import device_and_dtype, stoppable
from ..progress import show_stage

if TYPE_CHECKING:
    from .golden import Row


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="golden files")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... or auto (default: cpu)")
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="of the weights; in 16 bits errors are root mean squares, relative to the output (default: float32)",
    )  # fmt: skip
    command.add_argument(
        "--ranks", type=int, help="split the models over so many processes, in every way (ulysses x ring) that fits"
    )

    command.add_argument(
        "--compile", action="store_true", help="the same with what torch.compile makes of blocks and VAE: takes minutes"
    )


def run(options: argparse.Namespace) -> int:
    """Check the models against golden files of the reference."""
    with show_stage("starting"):
        from ...parallel.devices import parse_devices
        from ...parallel.fleet import Limits, local_fleet
        from .file import Compiled, Whole
        from .golden import Where, verify, verify_split

    if options.ranks is None:
        where = Where(*device_and_dtype(options))
        with stoppable():
            splitter = Compiled if options.compile else Whole
            return _print_rows(options.files, lambda path: verify(path, splitter(), where))
    if (options.device, options.dtype, options.compile) != ("cpu", "float32", False):
        raise InputError(
            "--ranks checks on CPU processes in float32, not compiled; leave out --device, --dtype and --compile, or "
            "--ranks"
        )
    devices = parse_devices(f"cpu x{options.ranks}")
    limits = Limits(silence=60, meeting=600)  # several workers on one core are slow, and not lost
    with stoppable(), local_fleet(devices, "verify", limits=limits) as fleet:
        return _print_rows(options.files, lambda path: verify_split(path, options.ranks, fleet))


def _print_rows(files: Sequence[Path], rows_of: "Callable[[Path], Iterator[Row]]") -> int:
    failed = 0
    for path in files:
        for row in rows_of(path):
            verdict = "ok" if row.passed else "FAILED"
            line = f"{path.stem:<14} {row.name:<20} {row.error:.2e}  (at most {row.tolerance:.0e})  {verdict:<6}"
            print(f"{line}  {row.split}".rstrip(), flush=True)
            failed += not row.passed
    if failed:
        print(f"{failed} row(s) failed", file=sys.stderr)
    return 1 if failed else 0
