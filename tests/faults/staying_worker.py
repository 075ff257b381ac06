"""The real worker, which stays, and notes that it loads a transformer in the file that the environment names."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from livetalk_core.commands.worker import RUNNERS, add_options
from livetalk_core.parallel.worker import place_of, serve
from livetalk_core.streaming import engine_runner

LOADS = Path(os.environ["LIVETALK_TEST_LOADS"])

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args())
    del options["stay"], options["again"]
    load = engine_runner.load_transformer

    def load_and_note(*given):
        with LOADS.open("a") as file:
            file.write("loaded\n")
        return load(*given)

    engine_runner.load_transformer = load_and_note
    sys.exit(serve(place_of(**options), RUNNERS, again=True))
