"""Peak memory of a long render against a short one.

    python -m benchmarks.memory [--seconds 20 600] [--side 64] [--audio published] [--json FILE]

Each length is rendered by a process of its own: a transformer and a VAE of the embedded model's widths, an audio
encoder of its widths or of the published ones (768 wide, 12 layers), all with random weights; the demo's portrait,
and its speech repeated.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from livetalk_core.commands.bench.parts import randomize
from livetalk_core.config import AudioEncoderConfig
from livetalk_core.hardware.machine import describe, peak_memory
from livetalk_core.media.audio import open_audio
from livetalk_core.media.image import load_image, to_reference
from livetalk_core.models.audio_encoder import AudioEncoder
from livetalk_core.models.transformer import Transformer
from livetalk_core.models.vae import VAE
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import frames_of_samples
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine
from livetalk_core.streaming.features import speech_features
from livetalk_core.streaming.plan import ChunkPlan
from livetalk_core.streaming.render import Render
from livetalk_core.streaming.session import Session

DEMO = Path(__file__).resolve().parent.parent / "demo"
AUDIO = {"published": AudioEncoderConfig(), "nano": PRESETS["nano"].audio}
MIB = 2**20


def repeated_speech(path: Path, seconds: float) -> None:
    """The demo's speech, again and again, as a WAV file."""
    with wave.open(str(DEMO / "speech.wav")) as once:
        parameters, data = once.getparams(), np.frombuffer(once.readframes(once.getnframes()), np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams(parameters)
        file.writeframes(np.resize(data, round(seconds * parameters.framerate)).tobytes())


def session_of(sound: Any, audio: AudioEncoderConfig, side: int) -> Session:
    """A stream at `side` x `side` px of widths that a CPU can run."""
    preset = PRESETS["nano"]
    widths = replace(preset.transformer, audio_blocks=audio.num_hidden_layers, audio_channels=audio.hidden_size)
    stream = replace(preset.stream, height=side, width=side)
    encoder: Any = randomize(AudioEncoder(audio))
    transformer, vae = (randomize(model) for model in (Transformer(widths), VAE(preset.vae)))
    engine = LocalEngine(transformer, vae)  # pyright: ignore[reportArgumentType]
    reference = to_reference(load_image(DEMO / "portrait.png"), side, side)
    clip, text = torch.zeros(1, 65, widths.clip_dim), torch.zeros(8, widths.text_dim)
    avatar = prepare_avatar(reference, clip, text, engine.encode, stream)
    plan = ChunkPlan.of(frames_of_samples(sound.samples, sound.sample_rate), stream)
    return Session(engine, avatar, speech_features(sound, encoder, plan, "window"), plan, stream)


def render(seconds: float, audio: AudioEncoderConfig, side: int, results: Any) -> None:
    """Render in this process; reports its peak resident memory in bytes, and the seconds it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.wav"
        repeated_speech(speech, seconds)
        sound = open_audio(speech)
        session = session_of(sound, audio, side)
        for _ in Render(session, Path(folder) / "talk.mp4", 0, sound, {}).run():
            pass
    peak = peak_memory(torch.device("cpu"))
    results.put({"speech": seconds, "peak_bytes": peak, "seconds": time.perf_counter() - start})


def measure(seconds: float, audio: AudioEncoderConfig = AUDIO["published"], side: int = 64) -> dict[str, float]:
    """Render in a new process, so that its peak is its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=render, args=(seconds, audio, side, results))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the render of {seconds} s failed (exit code {process.exitcode})")
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 600.0), help="a short and a long speech")
    parser.add_argument("--side", type=int, default=64, help="width and height of the video in pixels")
    parser.add_argument("--audio", choices=AUDIO, default="published", help="widths of the audio encoder")
    parser.add_argument("--json", type=Path, help="also keep the record in this file")
    options = parser.parse_args()
    short, long = (measure(seconds, AUDIO[options.audio], options.side) for seconds in options.seconds)
    growth = long["peak_bytes"] - short["peak_bytes"]
    for run in (short, long):
        print(f"{run['speech']:6.0f} s of speech: peak {run['peak_bytes'] / MIB:7.1f} MiB, {run['seconds']:.0f} s")
    print(f"difference: {growth / MIB:.1f} MiB")
    if options.json:
        setting = {"side": options.side, "audio encoder": options.audio}
        record = {**setting, "short": short, "long": long, "growth_bytes": growth, "machine": describe()}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
