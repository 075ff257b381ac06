"""Memory of a ComfyUI server over many chunks, by the render node and by a job: `python -m benchmarks.comfy_memory`.

Needs COMFYUI_PATH and COMFYUI_PYTHON. `--json FILE` keeps the record.
"""

import argparse
import json
import os
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.nodes.comfy_server import ComfyServer, Outcome, prepare
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

SECONDS_PER_CHUNK = 28 / 25
MIB = 2**20


def silence(path: Path, seconds: float) -> None:
    """A sound with nothing in it: what is said costs no memory."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * round(16_000 * seconds)))


def prompt_of(server: ComfyServer, name: str) -> dict[str, Any]:
    """The workflow at its smallest, on the long sound: what grows with the chunks is not their size."""
    prompt = small(to_prompt(load(named(name)), server.get("object_info")))
    prompt[ids_of(prompt)["LoadAudio"]]["inputs"]["audio"] = "long.wav"
    return prompt


def measured(server: ComfyServer, name: str) -> list[int]:
    """Resident memory in MiB after each chunk of a workflow."""
    process, samples, last = psutil.Process(server.process.pid), [], ""

    def sample(outcome: Outcome) -> None:
        nonlocal last
        text = outcome.texts[-1] if outcome.texts else ""
        if text != last and (text.endswith(" left") or text.startswith("chunk ")):
            last = text
            samples.append(process.memory_info().rss // MIB)

    for outcome in server.follow(prompt_of(server, name), sample, timeout=3600):
        assert outcome.error is None, outcome.error
    return samples


def growth(samples: list[int], first: int) -> float:
    """MiB per chunk from chunk `first` on: a straight line through the samples."""
    points = list(enumerate(samples))[first:]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def with_server(use: Callable[[ComfyServer], Any], chunks: int) -> Any:
    """What `use` makes of a fresh server with a long sound in its input folder."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        prepare(comfyui, base)
        silence(base / "input" / "long.wav", SECONDS_PER_CHUNK * chunks)
        server = ComfyServer(comfyui, base)
        try:
            return use(server)
        finally:
            server.close()


def main() -> None:
    """Measure, print, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--workflows", nargs="+", default=["livetalk_quick_start", "livetalk_job"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record = {}
    for name in options.workflows:
        samples = with_server(lambda server, name=name: measured(server, name), options.chunks)
        per_chunk = growth(samples, len(samples) // 3)
        record[name] = {
            "chunks": len(samples),
            "mib": samples[:: max(1, len(samples) // 30)],
            "mib_per_chunk": per_chunk,
        }
        print(
            f"{name}: {len(samples)} chunks, {samples[0]} to {samples[-1]} MiB, {per_chunk:+.3f} MiB a chunk at the end"
        )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
