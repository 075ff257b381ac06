"""Whether a chunk costs the same late in a stream as early: seconds and memory of each of about a thousand.

    python -m benchmarks.length [--chunks 1030] [--side 48] [--json FILE]

A stream of the embedded model's widths with random weights, through the real session to a video file: the demo's
portrait, its speech repeated. Compared are the medians of 20 chunks around the 10th and around the 1,000th, in seconds
and in processor time, and the process's resident memory there.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.memory import AUDIO, MIB, repeated_speech, session_of
from livetalk_core.hardware.machine import describe
from livetalk_core.media.audio import open_audio
from livetalk_core.shapes import FRAMES_PER_SECOND
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import ChunkEnd

EARLY, LATE, AROUND = 10, 1000, 20
NEW_FRAMES = 28


def resident() -> int:
    """Bytes of main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def measure(chunks: int, side: int) -> list[dict[str, float]]:
    """Wall-clock seconds, processor seconds and resident bytes after each chunk."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.wav"
        repeated_speech(speech, chunks * NEW_FRAMES / FRAMES_PER_SECOND)
        sound = open_audio(speech)
        session = session_of(sound, AUDIO["nano"], side)
        session.ahead = True
        render = Render(session, Path(folder) / "talk.mp4", 0, open_audio(speech), {})
        begun = time.perf_counter(), time.process_time()
        for event in render.run():
            if isinstance(event, ChunkEnd):
                now = time.perf_counter(), time.process_time()
                wall, processor = (after - before for after, before in zip(now, begun, strict=True))
                rows.append({"seconds": wall, "processor": processor, "resident": resident()})
                begun = now
    return rows


def around(rows: list[dict[str, float]], chunk: int) -> dict[str, float]:
    """Medians of 20 chunks, as many before the given one (the first is 1) as behind."""
    part = rows[max(0, chunk - AROUND // 2) : chunk + AROUND // 2]
    return {name: statistics.median(row[name] for row in part) for name in rows[0]}


def compare(rows: list[dict[str, float]], early: int, late: int) -> dict[str, Any]:
    """Both medians, and by which part the late ones are above the early ones."""
    medians = {"early": around(rows, early), "late": around(rows, late)}
    growth = {name: medians["late"][name] / medians["early"][name] - 1 for name in rows[0]}
    return {"chunks": len(rows), "early_chunk": early, "late_chunk": late, **medians, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1030, help="chunks to render; the late ones end 20 before")
    parser.add_argument("--side", type=int, default=48, help="width and height of the video in pixels")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    rows = measure(options.chunks, options.side)
    medians = compare(rows, EARLY, min(LATE, len(rows) - AROUND))
    for moment in ("early", "late"):
        row = medians[moment]
        print(
            f"chunk {medians[f'{moment}_chunk']:4d}: {row['seconds'] * 1000:.1f} ms, {row['processor'] * 1000:.1f} ms "
            f"of processor time, {row['resident'] / MIB:.1f} MiB"
        )
    print("growth: " + ", ".join(f"{name} {share:+.1%}" for name, share in medians["growth"].items()))
    if options.json:
        record = {"side": options.side, "load": os.getloadavg(), **medians, "machine": describe()}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
