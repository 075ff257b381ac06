"""Sounds, frames and files for the tests of media."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch


def speech(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """[channels, samples]: syllables of a buzzing voice, with pauses, each channel a little quieter."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.6 * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    mono = 0.15 * voice * np.clip(np.sin(2 * np.pi * 2.3 * time), 0, 1) ** 0.5
    return np.stack([mono * 0.7**channel for channel in range(channels)]).astype(np.float32)


def write_sound(path, sound: np.ndarray, rate: int, codec: str, layout: str, frame: int = 1024, **options: str):
    """Encode [channels, samples] with PyAV; the container follows from the name."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = layout
        stream.codec_context.options = {"strict": "experimental"}  # for vorbis
        target = stream.codec_context.format.name
        resampler = av.AudioResampler(format=target, layout=layout, rate=rate, frame_size=frame)
        packed = np.ascontiguousarray(sound.T, np.float32).reshape(1, -1)  # PyAV cannot fill eight planes
        source = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        source.sample_rate, source.pts = rate, 0
        for part in (*resampler.resample(source), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return path


def wav_bytes(samples: np.ndarray, rate: int, code: int = 3, claim: int | None = None) -> bytes:
    """A WAV file written by hand from [samples, channels]; `code` 3 is float, 1 integer; `claim` a false size."""
    channels, width = samples.shape[1], samples.dtype.itemsize
    body = samples.tobytes()
    form = struct.pack("<HHIIHH", code, channels, rate, rate * channels * width, channels * width, 8 * width)
    size = len(body) if claim is None else claim
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return head + b"data" + struct.pack("<I", size) + body


def pictures(count: int, height: int = 64, width: int = 64, first: int = 0) -> np.ndarray:
    """uint8 [count, height, width, 3]: a moving gradient; frame n is the same in every call."""
    y, x = np.mgrid[:height, :width]
    planes = [np.stack([x * 3 + 5 * n, y * 3 + 2 * n, x + y + 90 + n], -1) for n in range(first, first + count)]
    return (np.stack(planes) % 256).astype(np.uint8)


def decode_video(path) -> np.ndarray:
    """All decoded frames, as yuv420p planes."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


def decode_sound(path) -> np.ndarray:
    """All decoded samples, [channels, n], of a path or an open file."""
    with av.open(str(path) if isinstance(path, Path) else path) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


class Helpers:
    """What the fixture `media` gives."""

    speech = staticmethod(speech)
    write_sound = staticmethod(write_sound)
    wav_bytes = staticmethod(wav_bytes)
    pictures = staticmethod(pictures)
    decode_video = staticmethod(decode_video)
    decode_sound = staticmethod(decode_sound)

    @staticmethod
    def tensor_audio(seconds: float, rate: int = 44100, channels: int = 1):
        """A source in memory."""
        from livetalk_core.media.audio import TensorAudio

        return TensorAudio(torch.from_numpy(speech(seconds, rate, channels)), rate)


@pytest.fixture(scope="session")
def media() -> type[Helpers]:
    """Functions that make and read small media."""
    return Helpers
