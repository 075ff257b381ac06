"""How long parts and whole chunks take on several devices, what these send each other, and how long that takes alone.

Weights are random, as on one device (`parts.py`); a chunk is made as `generate` makes it, from sound to a video file.
"""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from ...checkpoints import nano
from ...hardware.machine import describe
from ...models.audio_encoder import AudioEncoder
from ...parallel.fleet import Fleet
from ...presets import Preset
from ...streaming.fleet_engine import FleetEngine, engine_setup
from ..fleet import ways_of, workers_of
from .parts import Models, iteration, randomize, time_work, works_of

PARTS = ("transformer step", "VAE decode", "VAE encode")
CPU = torch.device("cpu")
LINK_BYTES = 2**26
"""How much each rank sends when the link is measured."""


def fleet_of(options: argparse.Namespace, preset: Preset, dtype: torch.dtype) -> Fleet | None:
    """The workers that the options ask for, if any; their weights are random."""
    ways = ways_of(options)
    setup = engine_setup(nano.NAME, dtype, options.shard_weights, send_fp8=options.send_fp8, ways=ways)
    size = [preset.stream.height, preset.stream.width]
    return workers_of(options, {**setup, "preset": preset.name, "size": size}, "bench")


def bench_fleet(preset: Preset, fleet: Fleet, options: argparse.Namespace, dtype: torch.dtype) -> dict[str, Any]:
    """Median seconds of each part and of whole chunks, and the bytes that each rank sends in a step."""
    with fleet:
        engine = FleetEngine(fleet, preset.stream.shift, bridge=preset.stream.bridge)
        models = Models(engine, randomize(AudioEncoder(preset.audio)))
        works = works_of(preset, models, CPU)
        parts = {part: time_work(works[part], CPU, options.repeats) for part in PARTS}
        chunks = iteration(preset, models, CPU, options.repeats, whole_chunks=True)
        list(fleet.run_on("count"))  # which reports nothing
        works["transformer step"]()
        (counts,) = fleet.run_on("counts")
        (link,) = fleet.run_on("link", {"bytes": LINK_BYTES})
    ranks = counts.fields["ranks"]
    return {
        "preset": preset.name,
        "size": [preset.stream.width, preset.stream.height],
        "new_frames": preset.stream.new_frames,
        "steps": preset.stream.steps,
        "devices": fleet.name,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": options.attention,
        "compiled": options.compile,
        "fp8": options.fp8,
        "sharded": options.shard_weights,
        "send_fp8": options.send_fp8,
        "mesh": counts.fields["mesh"],
        "pieces": options.overlap,
        "memory": options.memory,
        "seconds": parts,
        "chunk_seconds": statistics.median(chunks["seconds"]),
        "iteration": chunks,
        "sent_bytes_per_step": [exchanged + joined for exchanged, joined, _ in ranks],
        "peak_bytes": [held for *_, held in ranks],
        "link_bytes_per_second": link.fields["bytes_per_second"] if len(ranks) > 1 else None,
        "machine": describe(),
    }


def report(record: dict[str, Any]) -> str:
    """The record as lines for a terminal."""
    return "\n".join([title(record), *(f"  {name:<32}{value}" for name, value in rows(record))])


def table(record: dict[str, Any]) -> str:
    """The record as a section in Markdown."""
    machine = record["machine"]
    lines = [
        f"### {title(record)}",
        "",
        f"{machine['processor']}, {machine['threads']} thread(s) in all, torch {machine['torch']}, commit "
        f"{machine['commit'][:12]}. Link: bytes a second that leave a rank while all send to all, measured in the same "
        "run; its share is what a step's bytes would take at that rate.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows(record)),
    ]
    return "\n".join(lines)


def title(record: dict[str, Any]) -> str:
    """What was measured."""
    (width, height), (ulysses, ring) = record["size"], record["mesh"]
    names = {"compiled": "compiled", "fp8": "FP8", "sharded": "weights sharded", "send_fp8": "sent as FP8"}
    choices = "".join(f", {text}" for name, text in names.items() if record[name])
    return (
        f"{record['preset']} at {width}x{height}, {record['dtype']}{choices}, on {record['devices']}: "
        f"ulysses {ulysses} x ring {ring}"
    )


def rows(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured, and what came out, as text."""
    for part, seconds in record["seconds"].items():
        least, median, most = (1000 * seconds[name] for name in ("least", "median", "most"))
        yield part, f"{median:.1f} ms ({least:.1f} .. {most:.1f})"
    chunks = record["iteration"]
    first = statistics.median(chunks["first_frame_seconds"]) / record["chunk_seconds"]
    speed = record["new_frames"] / record["chunk_seconds"]
    yield "chunk", f"{1000 * record['chunk_seconds']:.1f} ms, {speed:.1f} frames/s; first frame after {first:.0%}"
    sent, step = max(record["sent_bytes_per_step"]), record["seconds"]["transformer step"]["median"]
    yield "sent in a step, a rank", f"{sent / 1e6:.2f} MB"
    if rate := record["link_bytes_per_second"]:
        yield "link", f"{rate / 1e9:.2f} GB/s: {1000 * sent / rate:.1f} ms, {sent / rate / step:.1%} of the step"
    yield "peak memory, a rank", f"{max(record['peak_bytes']) / 2**30:.2f} GiB"
