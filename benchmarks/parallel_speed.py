"""Two worker processes against one: a transformer step, a decode and a whole chunk, of one thread each.

    python -m benchmarks.parallel_speed [PART ...] [--pairs 7] [--side 384] [--devices cpu cpu] [--json FILE]

Both fleets are started and warm before the first pair; a pair runs one and the other, in turns of first and second.
The median of the pairs' ratios is what counts. On a machine with other work the wall clock tells little: the CPU
seconds of the busier worker against those of the single one say what cores of their own would give.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


def cpu_seconds(fleet: Fleet) -> float:
    """CPU time of the busiest worker so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = [Path(f"/proc/{member.about['process']}/stat").read_text() for member in fleet.members]
    return max(sum(map(int, stat.rpartition(")")[2].split()[11:13])) for stat in stats) / ticks


def measure(work: Callable[[], Any], fleet: Fleet) -> dict[str, float]:
    """Wall-clock and CPU seconds of one run."""
    before, start = cpu_seconds(fleet), time.perf_counter()
    work()
    return {"wall": time.perf_counter() - start, "cpu": cpu_seconds(fleet) - before}


def compare(
    single: Callable[[], Any], several: Callable[[], Any], fleets: Sequence[Fleet], pairs: int
) -> dict[str, Any]:
    """Pairs of runs after one to warm up."""
    single(), several()
    runs: dict[str, list[dict[str, float]]] = {"one": [], "several": []}
    for pair in range(pairs):
        order = [("one", single, fleets[0]), ("several", several, fleets[1])]
        for name, work, fleet in order if pair % 2 else reversed(order):
            runs[name].append(measure(work, fleet))
    faster = {
        kind: statistics.median(one[kind] / max(two[kind], 1e-9) for one, two in zip(*runs.values(), strict=True))
        for kind in ("wall", "cpu")
    }
    return {**runs, "faster": faster}


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
    with start(options.devices[:1]) as one, start(options.devices) as several:
        both = [works(FleetEngine(fleet), options.side) for fleet in (one, several)]
        parts = {part: compare(both[0][part], both[1][part], (one, several), options.pairs) for part in options.parts}
    preset = PRESETS["nano"]
    shape = VideoShape(preset.stream.frame_num, options.side, options.side)
    tokens = shape.latent(preset.geometry).tokens(preset.geometry)
    print(
        f"nano, {shape.frames} frames of {options.side}x{options.side} ({tokens:,} tokens), float32: "
        f"{len(options.devices)} workers against one, one thread each, median of {options.pairs} pairs"
    )
    for part, runs in parts.items():
        faster = runs["faster"]
        seconds = statistics.median(run["wall"] for run in runs["one"])
        ratios = sorted(one["wall"] / two["wall"] for one, two in zip(runs["one"], runs["several"], strict=True))
        print(
            f"{part}: {seconds:.2f} s on one; {faster['wall']:.2f} times faster ({ratios[0]:.2f} to {ratios[-1]:.2f}; "
            f"CPU time: {faster['cpu']:.2f})"
        )
    if options.json:
        size = {"side": options.side, "frames": shape.frames, "tokens": tokens}
        record = {"preset": "nano", **size, "devices": options.devices, "load": os.getloadavg(), **parts}
        options.json.write_text(json.dumps({**record, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
