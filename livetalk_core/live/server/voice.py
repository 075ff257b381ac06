"""From text to speech: espeak-ng of this machine, or a server with OpenAI's `/v1/audio/speech`."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from aiohttp import ClientError, ClientSession, ClientTimeout, StreamReader

from ...errors import InputError
from ...media.audio import open_audio
from ...shapes import SAMPLE_RATE, heard_samples
from ..speech import Resampler

MOST_CHARACTERS = 2_000
MOST_BYTES = 64 * 2**20
"""Of a sound that is decoded as a whole."""
PCM_RATE = 24_000
"""Of the format `pcm`, as OpenAI's interface defines it."""
PATIENCE = ClientTimeout(total=None, sock_connect=5, sock_read=20)
ESPEAK = "espeak-ng"
MOST_NAME = 100


class Voice(Protocol):
    """Speaks text."""

    def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        """The speech, piece by piece as it comes: float32 [n] at 16 kHz. `InputError` where it cannot be had."""
        ...


class Espeak:
    """espeak-ng: robotic, and there at once. `name` is one of its voices."""

    def __init__(self, name: str | None = None) -> None:
        self._voice = [] if name is None else ["-v", name]

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        """See `Voice.speak`. The text goes in through a pipe: it is never an argument."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "speech.wav")
            process = await asyncio.create_subprocess_exec(
                ESPEAK, *self._voice, "-b", "1", "--stdin", "-w", str(file),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                _, said = await asyncio.wait_for(process.communicate(text.encode()), PATIENCE.sock_read)
            except asyncio.TimeoutError:
                raise InputError(f"{ESPEAK} did not end in {PATIENCE.sock_read:.0f} s; try a shorter text") from None
            finally:
                if process.returncode is None:
                    process.kill()
            if process.returncode or not file.exists():
                raise InputError(f"{ESPEAK} failed ({said.decode(errors='replace').strip()}); try another --voice")
            for piece in pieces_of(file):
                yield piece


class SpeechServer:
    """A server of OpenAI's interface: `url` is that of its `/v1/audio/speech`."""

    def __init__(self, url: str, model: str = "tts-1", voice: str = "alloy", key: str | None = None) -> None:
        self._url, self._request = url, {"model": model, "voice": voice, "response_format": "pcm"}
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        """See `Voice.speak`. Raw PCM is spoken while it comes; another format when it is there."""
        try:
            async with (
                ClientSession(timeout=PATIENCE, headers=self._headers) as client,
                client.post(self._url, json=self._request | {"input": text}) as answer,
            ):
                kind = answer.content_type
                if answer.status != 200 or not (kind.startswith("audio/") or kind == "application/octet-stream"):
                    start = (await answer.content.read(200)).decode(errors="replace").strip()
                    raise InputError(
                        f"{self._url} answered {answer.status}, {kind}, {start!r}; sound is needed: check --tts"
                    )
                raw = kind in ("audio/pcm", "audio/l16", "application/octet-stream")
                async for piece in self._raw(answer.content) if raw else self._decoded(answer.content):
                    yield piece
        except (ClientError, asyncio.TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{self._url} cannot be reached or broke off ({reason}); check --tts") from error

    async def _raw(self, content: StreamReader) -> AsyncIterator[np.ndarray]:
        resampler, odd = Resampler(PCM_RATE), b""
        async for data in content.iter_any():
            data, odd = odd + data, b""
            if len(data) % 2:
                data, odd = data[:-1], data[-1:]
            yield resampler.take(data)
        yield resampler.rest()

    async def _decoded(self, content: StreamReader) -> AsyncIterator[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            file, size = Path(folder, "speech"), 0
            with file.open("wb") as out:
                async for data in content.iter_any():
                    size += out.write(data)
                    if size > MOST_BYTES:
                        raise InputError(f"{self._url} sent more than {MOST_BYTES >> 20} MB; shorter texts are needed")
            for piece in pieces_of(file):
                yield piece


def pieces_of(file: Path) -> Iterator[np.ndarray]:
    """A sound file's speech in pieces of a second, float32 [n] at 16 kHz, decoded as they are asked for."""
    source = open_audio(file)
    total = heard_samples(source.samples, source.sample_rate)
    for start in range(0, total, SAMPLE_RATE):
        yield source.read(start, min(SAMPLE_RATE, total - start), SAMPLE_RATE, mono=True)[0]


def embedded_voice(name: str | None = None) -> Voice | None:
    """espeak-ng, where it is installed, with its voice of that `name`; `InputError` for an unknown one."""
    if shutil.which(ESPEAK) is None:
        if name is not None:
            raise InputError(
                f"voice {name!r} is of {ESPEAK}, which is not installed: install it, or leave the voice out"
            )
        return None
    if name is not None:
        _check_voice(name)
    return Espeak(name)


def _check_voice(name: str) -> None:
    """Have espeak-ng say a letter to nobody."""
    remedy = f"`{ESPEAK} --voices` lists those that it has"
    if not name.strip() or "\0" in name or len(name) > MOST_NAME:
        raise InputError(f"voice {name[:MOST_NAME]!r} is no name; {remedy}")
    tried = subprocess.run(
        [ESPEAK, "-v", name, "-q", "--stdin"], input=b"a", capture_output=True, timeout=PATIENCE.sock_read
    )
    if tried.returncode:
        reason = tried.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise InputError(f"voice {name!r} cannot speak ({reason}); {remedy}")
