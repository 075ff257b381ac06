"""What a chunk costs between processes: the controller's CPU time and the bytes, by parts and as a whole.

    python -m benchmarks.fleet_path [--size 256 256] [--chunks 2] [--devices cpu cpu] [--json FILE]

By parts, latents, frames and tails go back and forth as numbers, colours are matched in the controller, and noise is
sent; as a whole, workers are sent a seed and give pixels. The same fleet renders the same chunks both ways; the pixels
are compared. Sound is random numbers of the embedded model's shape, so that no encoder is counted; nor is a writer.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from livetalk_core.checkpoints.load import open_model
from livetalk_core.config import StreamConfig
from livetalk_core.hardware.machine import describe
from livetalk_core.parallel.fleet import Fleet, local_fleet
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.fleet_engine import FleetEngine, engine_setup
from livetalk_core.streaming.plan import Chunk, ChunkPlan
from livetalk_core.streaming.session import Frames, Session


class RandomSound:
    """Windows over features that are random, and the same every time."""

    def __init__(self, blocks: int, channels: int) -> None:
        self._shape = blocks, channels

    def for_chunk(self, chunk: Chunk) -> torch.Tensor:
        """See `session.Features`."""
        drawn = torch.randn(chunk.frames + 4, *self._shape, generator=torch.Generator().manual_seed(chunk.index))
        return drawn.unfold(0, 5, 1).movedim(-1, 1).contiguous()[None]


def session_of(fleet: Fleet, height: int, width: int, chunks: int, steps: int = 2) -> Session:
    """So many chunks of the embedded model, of so many steps."""
    model = open_model("nano", "cpu", torch.float32)
    config, stream = model.preset.transformer, StreamConfig(height=height, width=width, steps=steps)
    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(1, 3, 1, height, width, generator=generator) * 2 - 1
    clip = torch.randn(1, 257, config.clip_dim, generator=generator)
    text = torch.randn(5, config.text_dim, generator=generator)
    engine = FleetEngine(fleet)
    avatar = prepare_avatar(reference, clip, text, engine.encode, stream)
    plan = ChunkPlan.of(stream.frame_num + (chunks - 1) * stream.new_frames, stream)
    return Session(engine, avatar, RandomSound(config.audio_blocks, config.audio_channels), plan, stream)


def measure(session: Session, fleet: Fleet, pixels: bool) -> tuple[dict[str, Any], torch.Tensor]:
    """One way's figures a chunk, and what it shows."""
    session.pixels = pixels
    state = session.start(7)
    sent, received = fleet.traffic
    begin, cpu = time.perf_counter(), time.process_time()
    shown = torch.cat([event.pixels for event in session.run(state) if isinstance(event, Frames)])
    cpu, wall, (all_sent, all_received) = time.process_time() - cpu, time.perf_counter() - begin, fleet.traffic
    count = session.plan.count
    return {
        "controller CPU s": round(cpu / count, 4),
        "bytes to workers": (all_sent - sent) // count,
        "bytes from workers": (all_received - received) // count,
        "wall s": round(wall / count, 2),
    }, shown


def run(devices: Sequence[str], size: tuple[int, int], chunks: int) -> dict[str, Any]:
    """Both ways, after a chunk that warms both up."""
    with local_fleet(devices, "engine", fields=engine_setup("nano", torch.float32)) as fleet:
        for way in (False, True):
            measure(session_of(fleet, *size, 1), fleet, way)
        session = session_of(fleet, *size, chunks)
        (parts, of_parts), (at_once, of_chunks) = (measure(session, fleet, way) for way in (False, True))
    moved = [way["bytes to workers"] + way["bytes from workers"] for way in (parts, at_once)]
    return {
        "devices": list(devices), "size": list(size), "chunks": chunks,
        "by parts": parts, "as a whole": at_once,
        "equal": torch.equal(of_parts, of_chunks),
        "CPU times less": round(parts["controller CPU s"] / at_once["controller CPU s"], 1),
        "bytes times less": round(moved[0] / moved[1], 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height and width in pixels")
    parser.add_argument("--chunks", type=int, default=2, help="chunks each way")
    parser.add_argument("--devices", nargs="+", default=("cpu", "cpu"), help="one worker each")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    figures = run(options.devices, tuple(options.size), options.chunks)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps({**figures, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
