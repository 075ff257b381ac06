"""Two worker processes against one: a transformer step, a decode and a whole chunk, of one thread each.

    python -m benchmarks.parallel_speed [PART ...] [--pairs 7] [--side 384] [--devices cpu cpu] [--json FILE]

All fleets are started and warm before the first round; a round runs one worker alone, the several together, and as many
workers that share nothing, each with the whole work at the same time: what the machine allows at all, since cores share
caches and memory, and may be two threads of one. The order turns from round to round. The medians of the rounds' ratios
are what counts. On a machine with other work the wall clock tells little: the CPU seconds of the busiest worker against
those of the single one say what cores of their own would give.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.fleet_path import session_of
from livetalk_core.hardware.machine import describe
from livetalk_core.parallel.fleet import Fleet, local_fleet
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import VideoShape
from livetalk_core.streaming.avatar import Avatar
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup
from livetalk_core.streaming.session import ignore_step

PARTS = ("transformer step", "decode", "chunk")
SEED = 7


def works(engine: FleetEngine, side: int) -> dict[str, Callable[[], Any]]:
    """What is timed, on the embedded model's widths; a chunk is computed as a whole, from its sound to its pixels."""
    preset = PRESETS["nano"]
    config, stream = preset.transformer, preset.stream
    shape = VideoShape(stream.frame_num, side, side).latent(preset.geometry)
    latent = torch.randn(config.out_dim, *shape)
    windows = torch.randn(1, stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
    cond, clip = torch.randn(config.in_dim - config.out_dim, *shape), torch.randn(1, 65, config.clip_dim)
    avatar = Avatar(torch.rand(1, 3, 1, side, side), cond, clip, torch.randn(16, config.text_dim))
    noise = latent[None]
    session = session_of(engine.fleet, side, side, 1, stream.steps)
    session.pixels = True
    return {
        "transformer step": lambda: engine.denoise(
            avatar, windows, avatar.first_motion(preset.geometry), noise, ignore_step
        ),
        "decode": lambda: list(engine.decode(latent)),
        "chunk": lambda: list(session.run(session.start(SEED))),
    }


class Warm(NamedTuple):
    """Workers that are running, and what is timed of them: by each with one avatar, which they are given once."""

    fleet: Fleet
    works: Mapping[str, Callable[[], Any]]

    def cpu_seconds(self) -> float:
        """CPU time of the busiest worker so far."""
        ticks = os.sysconf("SC_CLK_TCK")
        stats = [Path(f"/proc/{member.about['process']}/stat").read_text() for member in self.fleet.members]
        return max(sum(map(int, stat.rpartition(")")[2].split()[11:13])) for stat in stats) / ticks


def measure(part: str, way: Sequence[Warm]) -> dict[str, float]:
    """Wall-clock seconds of all of a way's fleets at the same time, each with the whole work, and CPU seconds."""
    before, start = [each.cpu_seconds() for each in way], time.perf_counter()
    with ThreadPoolExecutor(len(way)) as threads:
        list(threads.map(lambda each: each.works[part](), way))
    wall = time.perf_counter() - start
    return {"wall": wall, "cpu": max(each.cpu_seconds() - cpu for each, cpu in zip(way, before, strict=True))}


def compare(part: str, ways: Mapping[str, Sequence[Warm]], rounds: int) -> dict[str, Any]:
    """Rounds of all ways, `one`, `several` and `apart`, after one to warm up."""
    for way in ways.values():
        measure(part, way)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in (order := list(ways))[number % len(order) :] + order[: number % len(order)]:
            runs[name].append(measure(part, ways[name]))
    return {**runs, "faster": faster(runs, "several", 1), "possible": faster(runs, "apart", len(ways["apart"]))}


def faster(runs: Mapping[str, Sequence[Mapping[str, float]]], name: str, works: int) -> dict[str, float]:
    """How much sooner `name` has done so many works than one worker would have."""
    pairs = list(zip(runs["one"], runs[name], strict=True))
    return {
        kind: works * statistics.median(one[kind] / max(other[kind], 1e-9) for one, other in pairs)
        for kind in ("wall", "cpu")
    }


def start(devices: Sequence[str]) -> Fleet:
    """Workers of one thread each: they share what this process has."""
    torch.set_num_threads(len(devices))
    fleet = local_fleet(devices, "engine", fields=engine_setup("nano", torch.float32))
    fleet.start()
    return fleet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, help="what is timed (default: all)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs of each part")
    parser.add_argument("--side", type=int, default=384, help="width and height in pixels (small: sending weighs more)")
    parser.add_argument("--devices", nargs="+", default=("cpu", "cpu"), help="of the several workers")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    count = len(options.devices)
    with ExitStack() as stack:
        fleets = [stack.enter_context(start([device])) for device in options.devices]
        fleets.append(stack.enter_context(start(options.devices)))
        *apart, several = [Warm(fleet, works(FleetEngine(fleet), options.side)) for fleet in fleets]
        ways = {"one": apart[:1], "several": [several], "apart": apart}
        parts = {part: compare(part, ways, options.pairs) for part in options.parts}
    shape = VideoShape(PRESETS["nano"].stream.frame_num, options.side, options.side)
    tokens = shape.latent(PRESETS["nano"].geometry).tokens(PRESETS["nano"].geometry)
    print(
        f"nano, {shape.frames} frames of {options.side}x{options.side} ({tokens:,} tokens), float32: "
        f"{count} workers against one, one thread each, median of {options.pairs} rounds"
    )
    for part, runs in parts.items():
        print(line(part, runs, count))
    if options.json:
        size = {"side": options.side, "frames": shape.frames, "tokens": tokens}
        record = {"preset": "nano", **size, "devices": options.devices, "load": os.getloadavg(), **parts}
        options.json.write_text(json.dumps({**record, "machine": describe()}, indent=1) + "\n")


def line(part: str, runs: Mapping[str, Any], count: int) -> str:
    """A part in a line."""
    ratios = sorted(one["wall"] / several["wall"] for one, several in zip(runs["one"], runs["several"], strict=True))
    seconds = statistics.median(run["wall"] for run in runs["one"])
    wall, possible = runs["faster"]["wall"], runs["possible"]["wall"]
    return (
        f"{part}: {seconds:.2f} s on one; {wall:.2f} times faster ({ratios[0]:.2f} to {ratios[-1]:.2f}; CPU time: "
        f"{runs['faster']['cpu']:.2f}) of {possible:.2f} that {count} workers which share nothing reach here "
        f"({wall / possible:.0%})"
    )


if __name__ == "__main__":
    main()
