"""The fuzzers for as long as one likes; see `harness`."""

import argparse
import sys

from .harness import FUZZERS, case_of, faults, one


def main() -> int:
    """Run them in turn, or one case; 1 where something went wrong."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("fuzzers", nargs="*", metavar="FUZZER", help=f"of {', '.join(FUZZERS)} (default: all)")
    options.add_argument("--seconds", type=float, default=120, help="all together (default: 120)")
    options.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    options.add_argument("--case", type=int, help="show this case alone")
    chosen = options.parse_args()
    fuzzers = chosen.fuzzers or FUZZERS
    if unknown := set(fuzzers) - set(FUZZERS):
        options.error(f"{', '.join(sorted(unknown))}: there are {', '.join(FUZZERS)}")
    wrong = []
    for fuzzer in fuzzers:
        if chosen.case is not None:
            outcomes = [(chosen.case, one(case_of(fuzzer), chosen.case))]
        else:
            outcomes = faults(fuzzer, chosen.seconds / len(fuzzers), chosen.seed)
        wrong += [f"{fuzzer} {seed}: {what}" for seed, what in outcomes if what]
    sys.stdout.write(("\n".join(wrong) or "nothing went wrong") + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
