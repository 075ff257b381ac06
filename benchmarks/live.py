"""A live stream as it is received: frame rate, sound against picture, drift, latency, interruption, memory.

    python -m benchmarks.live [--seconds 600] [--transport mp4 webrtc chromium-mp4 chromium-webrtc] [--stand-in 0.7]
        [--json docs/figures/live.json]

Serves the embedded model with its demo portrait, and receives the real streams in another process, which decodes them.
It is a conversation: the demo's speech, six seconds at a time, at once and quietly, with a pause after each. Tones are
laid over it; the frame of each is painted white where sound and frame are put together, so that the client tells by
content when each of them is played. `--stand-in` replaces the model by a pause of so many seconds a
chunk: then it is the transport alone that is measured, on a machine that is too busy for the model.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from livetalk_core.checkpoints.load import open_model
from livetalk_core.config import DEFAULT_PROMPT, CorrectionConfig
from livetalk_core.hardware.machine import commit
from livetalk_core.live import session as live_session
from livetalk_core.live.performer import Cast
from livetalk_core.live.reel import Moment
from livetalk_core.live.server.access import Access
from livetalk_core.live.server.app import LiveServer
from livetalk_core.live.server.house import House
from livetalk_core.media.audio import open_audio
from livetalk_core.media.image import load_image, to_reference
from livetalk_core.shapes import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from livetalk_core.streaming.avatar import prepare_avatar
from livetalk_core.streaming.engine import LocalEngine

from .live_receivers import LOUD, Marks, receive_mp4, receive_webrtc

TONE_HZ = 1000
TONE_SECONDS = 2 / FRAMES_PER_SECOND
QUIET = 0.05
"""The loudest sample of the speech between tones: below what counts as a tone."""
EVERY_FRAMES = 38
"""From one tone to the next."""
UTTERANCE_SECONDS, PAUSE_SECONDS = 6.0, 2.5
SETTLING_SECONDS = 5.0
INTERRUPTIONS = 5
TRANSPORTS = ("mp4", "webrtc", "chromium-mp4", "chromium-webrtc")
"""As a client of our own decodes them, and as the page shows them in Chromium."""


class StandIn:
    """Takes `seconds` for a chunk of 33 frames, and shows the portrait."""

    def __init__(self, seconds: float, reference: torch.Tensor) -> None:
        self.seconds, self.frame = seconds, reference[0]

    def denoise(self, _avatar: Any, _audio: Any, _motion: Any, noise: torch.Tensor, on_step: Callable) -> torch.Tensor:
        """Pauses for four tenths of the time."""
        for step in range(len(noise)):
            time.sleep(0.4 * self.seconds / len(noise) * noise.shape[2] / 9)
            on_step(step + 1)
        return noise[0]

    def decode(self, latent: torch.Tensor) -> Iterator[torch.Tensor]:
        """Pauses for the rest of it, group by group."""
        for group in range(latent.shape[1]):
            time.sleep(0.6 * self.seconds / 9)
            yield self.frame.repeat(1, 4 if group else 1, 1, 1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        height, width = frames.shape[-2:]
        return torch.zeros(16, 1 + (frames.shape[1] - 1) // 4, height // 8, width // 8)


def nano_cast(stand_in: float | None, quick: int | None, correction: CorrectionConfig | None = None) -> Cast:
    """The embedded model with the demo portrait, or what stands in for it."""
    model = open_model("nano", torch.device("cpu"), torch.float32)
    stream = replace(model.preset.stream, correction=correction)
    reference = to_reference(load_image(Path("demo/portrait.png")), stream.height, stream.width)
    (text,) = model.encode_texts(DEFAULT_PROMPT)
    engine = StandIn(stand_in, reference) if stand_in else LocalEngine(model.transformer, model.vae)
    avatar = prepare_avatar(reference, model.encode_image(reference), text, engine.encode, stream)
    return Cast(engine, avatar, model.audio_encoder, stream, quick_frames=quick)


def paint_marks() -> None:
    """From now on the first frame of every tone is white."""
    moments = live_session._moments
    loud = False

    def marked(*arguments: Any) -> Iterator[Moment]:
        nonlocal loud
        for moment in moments(*arguments):
            before, loud = loud, float(np.abs(moment.sound).max()) > LOUD
            begins = loud and not before
            yield moment._replace(pixels=np.full_like(moment.pixels, 255)) if begins else moment

    live_session._moments = marked


def offsets(marks: Marks, before: float) -> dict[str, Any]:
    """Milliseconds from a tone to its white frame (above 0: the picture is late) before a time, and how they drift."""
    pairs = [(white, white - tone) for white in marks.white for tone in marks.tones if abs(white - tone) < 0.5]
    pairs = [pair for pair in pairs if pair[0] < before]
    if len(pairs) < 3:
        return {"marks": len(pairs)}
    times, values = (np.array(column) for column in zip(*pairs, strict=True))
    return {
        "marks": len(pairs),
        "offset_ms_median": round(1000 * float(np.median(values)), 1),
        "offset_ms_largest": round(1000 * float(np.abs(values).max()), 1),
        "drift_ms_per_minute": round(60_000 * float(np.polyfit(times, values, 1)[0]), 3),
    }


def client(url: str, transport: str, seconds: float) -> dict[str, Any]:
    """Say tones, interrupt a few times, and receive it all; the figures."""
    until = time.time() + seconds
    said: list[float] = []
    cuts: list[float] = []
    ready = threading.Event()
    talker = threading.Thread(target=lambda: asyncio.run(_talk(url, until, said, cuts, ready)), daemon=True)
    talker.start()
    ready.wait(120)
    playout: list[float] = []
    if transport.startswith("chromium-"):
        from benchmarks.live_browser import observe

        seen, playout = observe(url, transport.removeprefix("chromium-"), until)
        shown = came = Marks(**seen)
    elif transport == "mp4":
        shown, came = receive_mp4(f"{url}stream.mp4?caller=bench", until)
    else:
        shown, came = asyncio.run(receive_webrtc(f"{url}offer?caller=bench", until))
    calm = until - INTERRUPTIONS * 4 - 2
    gaps = np.diff(came.frames)
    latencies = [min((white - at for white in came.white if white > at), default=np.nan) for at in said]
    latencies = [latency for latency in latencies if latency < PAUSE_SECONDS]
    heard = shown if transport == "webrtc" else came
    silent = [max((loud - at for loud in heard.loud if at < loud < at + 1.5), default=0.0) for at in cuts]
    return {
        "transport": transport,
        "frames": len(came.frames),
        "frames_per_second": round((len(came.frames) - 1) / (came.frames[-1] - came.frames[0]), 2),
        "largest_gap_ms": round(1000 * float(gaps.max())),
        "sound_to_picture": offsets(shown, calm if transport.startswith("chromium-") else np.inf),
        **({"browsers_own_offset_ms": _spread([1000 * value for value in playout])} if playout else {}),
        "received_after_ms": _spread([1000 * latency for latency in latencies]),
        "sound_after_interruption_ms": [round(1000 * value) for value in silent],
    }


def spoken(tone: np.ndarray) -> np.ndarray:
    """Six seconds of the demo's speech [n] at 16 kHz, quiet, with the tone over it now and then, first at once."""
    samples = round(UTTERANCE_SECONDS * SAMPLE_RATE)
    (speech,) = open_audio(Path("demo/speech.wav")).read(0, samples, SAMPLE_RATE, mono=True)
    speech = speech * (QUIET / np.abs(speech).max())
    for at in range(0, len(speech) - len(tone), EVERY_FRAMES * SAMPLES_PER_FRAME):
        speech[at : at + len(tone)] = tone
    return speech


async def _talk(url: str, until: float, said: list[float], cuts: list[float], ready: threading.Event) -> None:
    """A tone now and then; at the end a few longer ones, each interrupted."""
    from aiohttp import ClientSession

    tone = np.sin(np.arange(5 * SAMPLE_RATE) * 2 * np.pi * TONE_HZ / SAMPLE_RATE) / 2
    speech = spoken(tone[: round(TONE_SECONDS * SAMPLE_RATE)])
    async with ClientSession() as http, http.ws_connect(f"{url}talk?caller=bench") as socket:

        async def read() -> None:
            async for message in socket:
                if json.loads(message.data)["type"] == "ready":
                    ready.set()

        async def say(sound: np.ndarray) -> None:
            await socket.send_json({"type": "begin", "rate": SAMPLE_RATE})
            await socket.send_bytes((sound * 32767).astype("<i2").tobytes())
            await socket.send_json({"type": "end"})

        reading = asyncio.create_task(read())
        await asyncio.to_thread(ready.wait, 120)
        await asyncio.sleep(SETTLING_SECONDS)
        talk = UTTERANCE_SECONDS + PAUSE_SECONDS
        while time.time() < until - INTERRUPTIONS * 4 - 2 - talk:
            said.append(time.time())
            await say(speech)
            await asyncio.sleep(talk + 0.37 * (len(said) % 3))
        for _ in range(INTERRUPTIONS):
            await say(tone)
            await asyncio.sleep(2.3)
            cuts.append(time.time())
            await socket.send_json({"type": "interrupt"})
            await asyncio.sleep(1.7)
        await asyncio.sleep(max(0, until - time.time()))
        reading.cancel()


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": round(float(np.median(values))), "p95": round(float(np.percentile(values, 95)))}


def measure(cast: Cast, transport: str, seconds: float) -> dict[str, Any]:
    """One transport: the client's figures and the server's."""
    over = threading.Event()

    class Over(Exception):
        pass

    def poll() -> None:
        if over.is_set():
            raise Over

    memory: list[int] = []
    with LiveServer(House(cast), Access()) as server:
        program = [sys.executable, "-m", "benchmarks.live", "--client", server.url, transport, str(seconds)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        told: dict[str, Any] = {}
        first_pictures: list[float] = []
        first_groups: list[float] = []

        def watch() -> None:
            while process.poll() is None:
                memory.append(psutil.Process().memory_info().rss)
                if (session := server.house.session) is not None:
                    told.update(session.figures)
                    first_pictures[:] = session._stage.figures.first_pictures
                    first_groups.append(told["first_group_seconds"])
                time.sleep(1)
            over.set()

        threading.Thread(target=watch, daemon=True).start()
        with suppress(Over):
            server.house.perform(poll)
        received = json.loads(process.communicate()[0].splitlines()[-1])
    settled = memory[len(memory) // 4 :]
    return received | {
        "late_frames": told.get("late_frames"),
        "late_share": round(told.get("late_frames", 0) / max(1, told.get("frames", 0)), 4),
        "stopped_seconds": told.get("stopped_seconds"),
        "realtime_factor": told.get("realtime_factor"),
        "first_group_ms": _spread([1000 * value for value in first_groups if value]),
        "first_picture_ms": _spread([1000 * value for value in first_pictures]),
        "memory_growth_mb": round((settled[-1] - settled[0]) / 2**20, 1) if settled else None,
    }


def main() -> None:
    """Run, or be the client of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--transport", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--stand-in", type=float, metavar="SECONDS", help="a pause for a chunk in the model's place")
    parser.add_argument("--quick-chunk", type=int, default=17)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        url, transport, seconds = options.client
        print(json.dumps(client(url, transport, float(seconds))))
        return
    paint_marks()
    cast = nano_cast(options.stand_in, options.quick_chunk)
    engine = "nano, 128x128" if options.stand_in is None else f"a pause of {options.stand_in} s a chunk"
    streams = [measure(cast, transport, options.seconds) for transport in options.transport]
    result = {
        "commit": commit(), "engine": engine, "seconds": options.seconds, "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0], "streams": streams,
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
