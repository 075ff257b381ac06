"""The real worker on a pretended GPU: rank r calls itself cuda:r, with as many GiB free as the environment says."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from livetalk_core.commands.worker import RUNNERS, add_options
from livetalk_core.parallel import worker
from livetalk_core.streaming import engine_runner

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args())
    del options["stay"], options["again"]
    place = worker.place_of(**options)
    gpu = torch.device("cuda", place.rank)
    free = int(float(os.environ["LIVETALK_TEST_FREE"].split()[place.rank]) * 2**30)
    describe, check = worker.Worker._describe, engine_runner._check_fit
    worker.available_memory = engine_runner.available_memory = lambda _: free
    worker.Worker._describe = lambda self: describe(self) | {"device": str(gpu)}
    engine_runner._check_fit = lambda transformer, _, *others: check(transformer, gpu, *others)
    sys.exit(worker.serve(place, RUNNERS))
