"""Sounds of many kinds, damaged: bytes changed, cut out, doubled, joined with others, cut off."""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from livetalk_core.media.audio import open_audio
from tests.media.dsd import dsdiff

INPUTS = Path(__file__).parents[1] / "media" / "inputs"
KINDS = {
    "wav": ("pcm_s16le", "mono", 16_000), "flac": ("flac", "stereo", 48_000), "mp3": ("libmp3lame", "mono", 44_100),
    "m4a": ("aac", "stereo", 44_100), "aac": ("aac", "mono", 48_000), "opus": ("libopus", "5.1", 48_000),
    "webm": ("libopus", "mono", 48_000), "mkv": ("aac", "7.1", 48_000), "ts": ("mp2", "stereo", 48_000),
    "avi": ("pcm_s16le", "stereo", 8_000), "ac3": ("ac3", "5.1", 48_000), "aiff": ("pcm_s16be", "mono", 22_050),
    "au": ("pcm_mulaw", "mono", 8_000), "mov": ("alac", "stereo", 44_100), "wv": ("wavpack", "7.1", 44_100),
    "caf": ("pcm_s16be", "mono", 44_100), "w64": ("pcm_s24le", "stereo", 96_000), "asf": ("wmav2", "mono", 22_050),
    "flv": ("aac", "mono", 44_100), "3gp": ("aac", "mono", 32_000), "nut": ("flac", "stereo", 44_100),
    "loas": ("aac", "mono", 44_100), "sox": ("pcm_s32le", "mono", 44_100), "rm": ("ac3", "mono", 48_000),
    "tta": ("tta", "stereo", 44_100), "dff": ("dsd", "mono", 2_822_400),
}  # fmt: skip
SECONDS = 1.5


def case(seed: int, folder: Path) -> None:
    """A damaged sound is opened, and read at its beginning, its end and beyond, as sound and as speech."""
    chance = np.random.default_rng(seed)
    names = [*KINDS, *sorted(path.name for path in INPUTS.iterdir())]
    name = names[int(chance.integers(len(names)))]
    data = bytearray(_made(name) if name in KINDS else (INPUTS / name).read_bytes())
    for _ in range(int(chance.integers(1, 5))):
        change = CHANGES[int(chance.integers(len(CHANGES)))]
        data = change(data, chance) or data
    path = folder / f"a.{name.rpartition('.')[2]}"
    path.write_bytes(data)
    source = open_audio(path)
    source.statistics(source.samples)
    for start in (0, max(0, source.samples - 1000), source.samples + 5):
        sound = source.read(start, 2000, source.sample_rate, mono=False)
        assert np.isfinite(sound).all()
    assert source.read(0, 16_000, 16_000, mono=True).shape == (1, 16_000)
    assert all("\n" not in note and len(note) < 300 for note in source.notes)


@lru_cache
def _made(kind: str) -> bytes:
    """A healthy file of a kind: a second and a half of noise in bursts."""
    codec, layout, rate = KINDS[kind]
    if codec == "dsd":  # which nothing here writes
        return dsdiff(np.random.default_rng(1).integers(0, 2, round(SECONDS * rate), np.uint8), rate)
    channels = av.AudioLayout(layout).nb_channels
    time = np.arange(round(SECONDS * rate)) / rate
    bursts = np.random.default_rng(1).normal(0, 0.1, (len(time), channels)) * np.clip(np.sin(20 * time), 0, 1)[:, None]
    memory = BytesIO()
    names = {"loas": "latm", "m4a": "ipod", "aac": "adts", "mkv": "matroska", "ts": "mpegts"}
    with av.open(memory, "w", format=names.get(kind, kind)) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = layout
        stream.codec_context.options = {"strict": "experimental"}
        if codec == "wmav2":
            stream.bit_rate = 64_000  # it has no default
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate, frame_size=size)
        frame = av.AudioFrame.from_ndarray(bursts.astype(np.float32).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))
    return memory.getvalue()


def _place(data: bytearray, chance: np.random.Generator) -> int:
    """Somewhere; every second time in the headers."""
    return int(chance.integers(max(1, len(data) if chance.random() < 0.5 else min(len(data), 200))))


def _flip(data: bytearray, chance: np.random.Generator) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << int(chance.integers(8))


def _number(data: bytearray, chance: np.random.Generator) -> None:
    """A field that claims much, little or nothing."""
    place, claims = _place(data, chance), (0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, int(chance.integers(2**32)))
    value = claims[int(chance.integers(len(claims)))]
    size = (2, 4, 8)[int(chance.integers(3))]
    data[place : place + size] = (value % 256**size).to_bytes(size, ("little", "big")[int(chance.integers(2))])


def _noise(data: bytearray, chance: np.random.Generator) -> None:
    place, size = _place(data, chance), int(chance.integers(1, 2000))
    data[place : place + size] = chance.bytes(size)


def _without(data: bytearray, chance: np.random.Generator) -> None:
    place = _place(data, chance)
    del data[place : place + int(chance.integers(1, 3000))]


def _cut(data: bytearray, chance: np.random.Generator) -> None:
    del data[int(chance.integers(len(data) + 1)) :]


def _doubled(data: bytearray, chance: np.random.Generator) -> None:
    place = _place(data, chance)
    data[place:place] = data[: int(chance.integers(1, len(data) + 1))]


def _joined(data: bytearray, chance: np.random.Generator) -> None:
    data += _made(list(KINDS)[int(chance.integers(len(KINDS)))])


CHANGES: list[Callable[[bytearray, np.random.Generator], None]] = [
    _flip, _flip, _number, _number, _noise, _without, _cut, _doubled, _joined,
]  # fmt: skip
