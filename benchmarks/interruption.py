"""What an interruption does to the picture: how soon the mouth is shut, and whether the stream goes on without a jump.

    python -m benchmarks.interruption [--cuts 12] [--json docs/figures/interruption.json]

The embedded model speaks; it is cut after a frame as a live stream is, and goes on in silence from the frames shown,
with a chunk of each length. Counted in frames, not in time: the machine's speed is no part of it. Time from the message
to a shut mouth is these frames, and the frames that show the last one again until the first group is there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.live import nano_cast
from livetalk_core.config import CorrectionConfig
from livetalk_core.hardware.machine import commit
from livetalk_core.live.performer import Cast, Performer
from livetalk_core.live.schedule import Order
from livetalk_core.media.audio import open_audio
from livetalk_core.shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from livetalk_core.streaming.session import ignore_step
from livetalk_core.training.evaluation.measurer import load_measurer

LENGTHS = (33, 17, 13, 9)
SPOKEN_CHUNKS = 2
SETTLED = 12
"""Frames after which a mouth counts as at rest; its opening there is what shut is compared with."""
SHUT = 0.25
"""Shut: not further open than at rest by this share of what it was in speech."""


def chunk(performer: Performer, order: Order, last: torch.Tensor, sound: np.ndarray) -> torch.Tensor:
    """The frames [3,n,H,W] of a chunk after `last`."""
    groups = performer.make(order, list(last.split(1, dim=1)), sound)
    return torch.cat([group.frames for group in groups], dim=1)


def cut_stream(cast: Cast, speech: np.ndarray, shown: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames shown until the cut [3,shown,H,W], and those after it [3,n,H,W]."""
    performer, frames = Performer(cast, ignore_step), torch.empty(3, 0, cast.stream.height, cast.stream.width)
    new, past = cast.stream.new_frames, cast.stream.motion_frames
    for index in range(SPOKEN_CHUNKS):
        sound = speech[index * new * SAMPLES_PER_FRAME :][: new * SAMPLES_PER_FRAME]
        order = Order(index * new, new, True)
        frames = torch.cat([frames, chunk(performer, order, frames[:, -past:], sound)], dim=1)
    frames, after = frames[:, :shown], torch.empty(3, 0, cast.stream.height, cast.stream.width)
    length = cast.quick.new_frames
    while after.shape[1] < 2 * SETTLED:
        known = torch.cat([frames, after], dim=1)
        silence = np.zeros(length * SAMPLES_PER_FRAME, np.float32)
        after = torch.cat([after, chunk(performer, Order(known.shape[1], length, False), known[:, -past:], silence)], 1)
    return frames, after[:, : 2 * SETTLED]


def measured(cast: Cast, speech: np.ndarray, shown: int) -> dict[str, float]:
    """Frames until the mouth is shut, and the change at the cut against that inside."""
    before, after = cut_stream(cast, speech, shown)
    frames = torch.cat([before, after], dim=1)
    opening = load_measurer().measure(frames).opening
    spoken, rest = float(opening[:shown].max()), float(opening[shown + SETTLED :].median())
    limit = rest + SHUT * max(0.0, spoken - rest)
    open_frames = (opening[shown : shown + SETTLED] > limit).nonzero()
    change = frames.diff(dim=1).abs().mean((0, 2, 3))
    inside = torch.cat([change[: shown - 1], change[shown:]])
    return {
        "at_cut": round(float(opening[shown - 1]), 4),
        "shut_after_frames": int(open_frames.max()) + 2 if len(open_frames) else 1,
        "border_change": float(change[shown - 1]),
        "inside_change": float(inside[shown - 11 : shown + 9].mean()),
    }


def cuts_of(cast: Cast, length: int, speech: np.ndarray, number: int) -> dict[str, Any]:
    """So many cuts, each followed by a chunk of `length` frames."""
    cuts = [measured(cast, speech, 12 + (37 * index) % 42) for index in range(number)]
    frames = [cut["shut_after_frames"] for cut in cuts]
    border = sum(cut["border_change"] for cut in cuts) / sum(cut["inside_change"] for cut in cuts)
    result = {
        "chunk_after": length,
        "cuts": number,
        "shut_after_ms_median": 1000 * float(np.median(frames)) / FRAMES_PER_SECOND,
        "shut_after_ms_largest": 1000 * max(frames) / FRAMES_PER_SECOND,
        "border_to_inside": round(border, 3),
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    """Cut at many places, for every length, without retrospection and with it (live's default)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = open_audio("demo/speech.wav")
    speech = source.read(0, 4 * SAMPLE_RATE, SAMPLE_RATE, mono=True)[0]
    streams: list[dict[str, Any]] = []
    for correction in (None, CorrectionConfig()):
        strength = correction.strength if correction else 0
        cuts = [cuts_of(nano_cast(None, length, correction), length, speech, options.cuts) for length in LENGTHS]
        streams.append({"correction": strength, "lengths": cuts})
    if options.json:
        text = json.dumps({"commit": commit(), "engine": "nano, 128x128", "streams": streams}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
