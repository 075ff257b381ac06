"""Whether a talk that is rendered in two parts, the second from the last frames of the first, shows where they meet.

    python -m benchmarks.go_on [--seconds 20] [--size 128] [--seed 0] [--json FILE]

The embedded model speaks the demo's speech, repeated: once whole, once in two halves, and the second half once more
begun anew. Of each pair of frames that follow each other, the mean change of their pixels (of 255): between the halves,
at the other borders of chunks, and everywhere. And how far the sound of the two files, one behind the other, is off the
speech, within 50 ms of the border and elsewhere.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from livetalk_core.checkpoints.model import Model
from livetalk_core.commands.loading import ModelSettings, Talker, load_talker, open_model
from livetalk_core.config import DEFAULT_PROMPT
from livetalk_core.media.audio import AudioSource, TensorAudio, open_audio
from livetalk_core.media.crop import CENTER
from livetalk_core.media.image import load_image, to_reference
from livetalk_core.shapes import FRAMES_PER_SECOND
from livetalk_core.streaming.features import speech_features
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import Frames, Session

DEMO = Path(__file__).resolve().parents[1] / "demo"
RATE = 44_100
AROUND_SECONDS = 0.05
"""Of sound, on each side of the border."""


class Part(NamedTuple):
    """What was rendered: frames [3,n,H,W] in -1..1, its file, and the first frame of each chunk."""

    frames: Tensor
    path: Path
    borders: list[int]


class Changes(NamedTuple):
    """Mean change of the pixels, of 255, from a frame to the next."""

    between: float
    """From the first half to the second."""
    at_chunks: float
    """The largest at another border of chunks."""
    median: float
    share_livelier: float
    """Of all pairs of frames, those that change more than `between`."""


def speech(seconds: float) -> np.ndarray:
    """The demo's speech, repeated: float32 [1, samples] at `RATE`."""
    source = open_audio(DEMO / "speech.wav")
    once = source.read(0, round(source.seconds * RATE), RATE, mono=True)
    samples = round(seconds * RATE)
    return np.tile(once, -(-samples // once.shape[1]))[:, :samples]


def talker_of(size: int) -> Talker:
    """The embedded model with the demo's face, `size` px wide and high."""
    settings = ModelSettings(size=(size, size))
    model, stream = open_model(settings)
    reference = to_reference(load_image(DEMO / "portrait.png"), stream.height, stream.width, CENTER)
    return load_talker(settings, model, stream, reference, (DEFAULT_PROMPT,))


def render(talker: Talker, sound: AudioSource, path: Path, seed: int, before: Tensor | None = None) -> Part:
    """Speak `sound`, from the frames `before` [3,motion_frames,H,W] in -1..1 where there are any."""
    frames = round(sound.seconds * FRAMES_PER_SECOND)
    plan = ChunkPlan.of(frames, talker.stream, live=before is not None)
    encoder = _hearing(talker.model)
    session = Session(
        talker.engine, talker.avatar, speech_features(sound, encoder, plan, "window"), plan, talker.stream,
        before=before,
    )  # fmt: skip
    made = Render(session, path, seed, sound.reader(), {})
    shown = torch.cat([event.frames.float().cpu() for event in made.run() if isinstance(event, Frames)], dim=1)
    return Part(shown, path, list(_borders(plan)))


def _hearing(model: Model) -> Any:
    encoder = model.audio_encoder
    assert encoder is not None
    return encoder


def _borders(plan: ChunkPlan) -> Iterator[int]:
    for index in range(1, plan.count):
        chunk = plan.chunk(index)
        yield chunk.start + chunk.skip


def changes(first: Part, second: Part) -> Changes:
    """How lively two parts are, one behind the other."""
    frames = torch.cat([first.frames, second.frames], dim=1)
    change = (frames[:, 1:] - frames[:, :-1]).abs().mean((0, 2, 3)) * 127.5
    border = first.frames.shape[1]
    others = [*first.borders, *(border + start for start in second.borders)]
    between = float(change[border - 1])
    return Changes(
        between,
        float(max(change[start - 1] for start in others)),
        float(change.median()),
        float((change > between).float().mean()),
    )


def unbroken_changes(unbroken: Part, border: int) -> Changes:
    """The same of a talk in one part, at the same frame."""
    before, after = unbroken.frames[:, :border], unbroken.frames[:, border:]
    inner = [start for start in unbroken.borders if start != border]
    first = Part(before, unbroken.path, [start for start in inner if start < border])
    return changes(first, Part(after, unbroken.path, [start - border for start in inner if start > border]))


def sound_off(first: Part, second: Part, said: np.ndarray) -> dict[str, float]:
    """Root mean square of what the files' sound, one behind the other, is off `said` [1, samples], and of `said`."""
    half = said.shape[1] // 2
    heard = np.concatenate([open_audio(part.path).read(0, half, RATE, mono=True)[0] for part in (first, second)])
    error, near = heard - said[0, : 2 * half], round(AROUND_SECONDS * RATE)
    away = np.concatenate([error[: half - near], error[half + near :]])
    return {
        "at the border": _rms(error[half - near : half + near]),
        "elsewhere": _rms(away),
        "largest at the border": float(np.abs(error[half - near : half + near]).max()),
        "largest elsewhere": float(np.abs(away).max()),
        "of the speech": _rms(said),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def measure(seconds: float, size: int, seed: int, folder: Path) -> dict[str, Any]:
    """All of it, as numbers; `seconds` are cut to two halves of whole frames."""
    frames = 2 * int(seconds * FRAMES_PER_SECOND / 2)
    said, talker = speech(frames / FRAMES_PER_SECOND), talker_of(size)
    half = said.shape[1] // 2
    sounds = {"whole": said, "first": said[:, :half], "second": said[:, half:]}
    sources = {name: TensorAudio(torch.from_numpy(sound.copy()), RATE) for name, sound in sounds.items()}
    unbroken = render(talker, sources["whole"], folder / "whole.mp4", seed)
    first = render(talker, sources["first"], folder / "first.mp4", seed)
    last = first.frames[:, -talker.stream.motion_frames :]
    second = render(talker, sources["second"], folder / "second.mp4", seed, last)
    anew = render(talker, sources["second"], folder / "anew.mp4", seed)
    return {
        "frames": frames,
        "size": size,
        "whole": unbroken_changes(unbroken, frames // 2)._asdict(),
        "gone on": changes(first, second)._asdict(),
        "begun anew": changes(first, anew)._asdict(),
        "sound": sound_off(first, second, said),
    }


def main() -> None:
    """Print the numbers, and write them where asked to."""
    parser = argparse.ArgumentParser(description="A talk in two parts, the second from the last frames of the first.")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(options.seconds, options.size, options.seed, Path(folder))
    print(json.dumps(numbers, indent=1))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
