"""The real worker, which goes wrong once, in the middle of a stage of its work.

The file that the environment names says how: `stage rank fault`. The rank that it is meant for takes it away, so that
its modification time is when it happened and the workers that come after are well.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faulty_worker import go_wrong

from livetalk_core.commands.worker import RUNNERS, add_options
from livetalk_core.parallel.worker import place_of, serve
from livetalk_core.streaming import engine_runner

ORDER = Path(os.environ["LIVETALK_TEST_ORDER"])


def obey(stage, rank) -> None:
    """Go wrong, if this is when."""
    try:
        order = ORDER.read_text().split()
    except FileNotFoundError:  # none was given, or the other rank has taken it away
        return
    if order[:2] == [stage, str(rank)]:
        ORDER.rename(ORDER.with_suffix(".done"))
        os.utime(ORDER.with_suffix(".done"))
        go_wrong(order[2])


def staged(rank):
    """Makes an engine's runner whose parts obey."""

    def make(job):
        load = engine_runner.load_transformer

        def load_and_obey(*given):
            loaded = load(*given)
            obey("load", rank)
            return loaded

        engine_runner.load_transformer = load_and_obey
        runner = engine_runner.EngineRunner.of(job)
        vae = runner.engine.vae.vae
        for stage, part in (
            ("denoise", runner.engine.transformer.blocks[-1]),
            ("decode", list(vae.decoder.head.modules())[-1]),
            ("encode", list(vae.encoder.head.modules())[-1]),
        ):
            part.register_forward_pre_hook(lambda *_, stage=stage: obey(stage, rank))
        return runner

    return make


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args())
    del options["stay"], options["again"]
    place = place_of(**options)
    sys.exit(serve(place, {**RUNNERS, "engine": staged(place.rank)}))
