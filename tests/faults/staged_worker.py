"""The real worker, which goes wrong once, in the middle of a stage of its work.

The file that the environment names says how: `stage rank fault`. The rank that it is meant for takes it away, so that
its modification time is when it happened and the workers that come after are well.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from faulty_worker import go_wrong

from livetalk_core.commands.worker import RUNNERS, add_options
from livetalk_core.parallel import sequence
from livetalk_core.parallel.worker import place_of, serve
from livetalk_core.streaming import engine_runner

ORDER = Path(os.environ["LIVETALK_TEST_ORDER"])


def ordered(stage, rank) -> str | None:
    """What is to go wrong, if this is when."""
    try:
        order = ORDER.read_text().split()
    except FileNotFoundError:  # none was given, or the other rank has taken it away
        return None
    if order[:2] != [stage, str(rank)]:
        return None
    ORDER.rename(ORDER.with_suffix(".done"))
    os.utime(ORDER.with_suffix(".done"))
    return order[2]


def obey(stage, rank) -> None:
    """Go wrong, if this is when."""
    go_wrong(ordered(stage, rank))


def spoil(stage, rank, numbers):
    """The same numbers, the last of them NaN if this is when; `NaN` in the stage's name tells it from `obey`'s."""
    if ordered(f"{stage}:NaN", rank):
        numbers = numbers.clone(memory_format=torch.contiguous_format)
        numbers.view(-1)[-1] = torch.nan
    return numbers


def obey_within_pieces(rank) -> None:
    """Between two pieces of an exchange: one's result is on its way, and of another the queries, keys and values."""
    attend, calls = sequence.Share._attend_heads, itertools.count()

    def attend_and_obey(*given):
        if next(calls) % 2:
            obey("piece", rank)
        return attend(*given)

    sequence.Share._attend_heads = attend_and_obey


def staged(rank):
    """Makes an engine's runner whose parts obey."""

    def make(job):
        load = engine_runner.load_transformer

        def load_and_obey(*given):
            loaded = load(*given)
            obey("load", rank)
            return loaded

        engine_runner.load_transformer = load_and_obey
        obey_within_pieces(rank)
        runner = engine_runner.EngineRunner.of(job)
        transformer, vae = runner.engine.transformer, runner.engine.vae.vae
        for stage, part in (
            ("sound", transformer.audio_proj),
            ("condition", transformer.text_embedding),
            ("denoise", transformer.blocks[-1]),
            ("decode", list(vae.decoder.head.modules())[-1]),
            ("encode", list(vae.encoder.head.modules())[-1]),
        ):
            part.register_forward_pre_hook(lambda *_, stage=stage: obey(stage, rank))
            part.register_forward_hook(lambda _, __, out, stage=stage: spoil(stage, rank, out))
        match_color = engine_runner.match_color
        engine_runner.match_color = lambda *given: spoil("color", rank, match_color(*given))
        return runner

    return make


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args())
    del options["stay"], options["again"]
    place = place_of(**options)
    sys.exit(serve(place, {**RUNNERS, "engine": staged(place.rank)}))
