"""The command `download`."""

import argparse
from pathlib import Path

from ...files import check_folder, make_folder
from ..options import stoppable
from .sources import BUNDLES

FOLDER = Path("models")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    command.add_argument("name", choices=BUNDLES, metavar="NAME", help=", ".join(BUNDLES))
    command.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER", help=f"where to (default: {FOLDER})")
    command.add_argument("--dry-run", action="store_true", help="say sizes and licences, and download nothing")


def run(options: argparse.Namespace) -> int:
    """Download a published model: sizes and licences first, then its files, checked and converted."""
    from .plan import carry_out, planned

    with stoppable():
        check_folder(options.to)
        plan = planned(options.name, options.to)
        print("\n".join(plan.described()), flush=True)
        if not options.dry_run:
            make_folder(options.to)
            carry_out(plan, lambda line: print(line, flush=True))
            print(plan.next_step)
    return 0
