"""Headers that say other things than the sound: valid bits, lengths; and formats that few programs write."""

import struct

import numpy as np
import pytest

from livetalk_core.media.audio import open_audio
from tests.media.dsd import dsdiff

RATE = 48_000
PCM = bytes.fromhex("0100000000001000800000aa00389b71")
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")


def extensible(bits: int, valid: int, channels: int = 1) -> bytes:
    """The content of a format chunk with the number of valid bits."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHHHHI", 0xFFFE, channels, RATE, RATE * block, block, bits, 22, valid, 4)
    return head + PCM


def riff(form: bytes, sound: bytes) -> bytes:
    return _riff(b"RIFF", b"WAVEfmt " + struct.pack("<I", len(form)) + form, sound, len(sound))


def rf64(form: bytes, sound: bytes) -> bytes:
    sizes = struct.pack("<QQQI", 28 + 8 + 40 + 24 + len(sound), len(sound), 0, 0)
    head = b"WAVEds64" + struct.pack("<I", 28) + sizes + b"fmt " + struct.pack("<I", len(form)) + form
    return _riff(b"RF64", head, sound, 0xFFFF_FFFF)


def _riff(name: bytes, head: bytes, sound: bytes, claim: int) -> bytes:
    body = head + b"data" + struct.pack("<I", claim) + sound
    return name + struct.pack("<I", len(body) if name == b"RIFF" else 0xFFFF_FFFF) + body


def w64(form: bytes, sound: bytes) -> bytes:
    body = b"wave" + W64_TAIL + b"fmt " + W64_TAIL + struct.pack("<Q", 24 + len(form)) + form
    body += b"data" + W64_TAIL + struct.pack("<Q", 24 + len(sound)) + sound
    name = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
    return name + struct.pack("<Q", 24 + len(body)) + body


@pytest.mark.parametrize(("bits", "valid"), [(32, 24), (32, 20), (32, 16), (32, 32), (24, 20), (24, 16), (16, 12)])
@pytest.mark.parametrize("write", [riff, rf64, w64])
def test_samples_of_fewer_valid_bits_than_they_have_room_for(tmp_path, media, write, bits, valid):
    sound = media.speech(2, RATE)[0]
    step = 2 ** (bits - valid)
    numbers = (sound * 2 ** (bits - 1)).astype(np.int64) // step * step
    packed = numbers.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    path = tmp_path / "a.wav"
    path.write_bytes(write(extensible(bits, valid), packed))
    source = open_audio(path)
    assert (source.samples, source.notes) == (len(sound), ())
    read = source.read(0, len(sound), RATE, mono=True)[0]
    assert np.abs(read - numbers / 2 ** (bits - 1)).max() < 1e-6


def test_joined_ones_and_those_cut_off(tmp_path, media):
    sound = (media.speech(2, RATE)[0] * 2**31).astype("<i4") & ~0xFF
    path = tmp_path / "a.wav"
    plain = _riff(b"RIFF", b"WAVEfmt " + struct.pack("<I", 40) + extensible(32, 32), sound.tobytes(), sound.nbytes)
    path.write_bytes(plain + riff(extensible(32, 24), sound.tobytes()))
    source = open_audio(path)
    read = source.read(0, 4 * RATE, RATE, mono=True)[0]
    assert np.array_equal(read[: 2 * RATE], read[2 * RATE :]) and np.abs(read - np.tile(sound, 2) / 2**31).max() < 1e-6
    path.write_bytes(rf64(extensible(32, 24), sound.tobytes())[:200_000])
    (note,) = open_audio(path).notes
    assert "cut off at 00:00:01" in note


@pytest.mark.parametrize(
    "frames", [lambda count: 2 * count, lambda _: 0xFFFF_FFFF, lambda _: 0, lambda count: count // 2]
)
def test_a_false_number_of_frames_in_an_mp3_with_all_its_bytes(tmp_path, media, frames):
    path = media.write_sound(tmp_path / "a.mp3", media.speech(3, RATE), RATE, "libmp3lame", "mono", frame=1152)
    data = path.read_bytes()
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    count = struct.unpack_from(">I", data, at)[0]
    path.write_bytes(data[:at] + struct.pack(">I", frames(count)) + data[at + 4 :])
    source = open_audio(path)
    assert source.seconds == pytest.approx(3, abs=0.06) and not source.notes


def test_an_mp3_that_lacks_bytes_keeps_its_length(tmp_path, media):
    path = media.write_sound(tmp_path / "a.mp3", media.speech(3, RATE), RATE, "libmp3lame", "mono", frame=1152)
    path.write_bytes(path.read_bytes()[:20_000])
    source = open_audio(path)
    assert source.seconds == pytest.approx(3, abs=0.06) and "unreadable" in source.notes[0]


def test_dsdiff(tmp_path, media):
    sound = np.repeat(media.speech(2, 44_100)[0].astype(np.float64), 64)
    bits = np.diff(np.floor(np.cumsum((sound + 1) / 2)), prepend=0).astype(np.uint8)
    path = tmp_path / "a.dff"
    path.write_bytes(dsdiff(bits, 2_822_400))
    source = open_audio(path)
    assert source.seconds == pytest.approx(2, abs=0.01)
    read, true = source.read(0, 32_000, 16_000, mono=True)[0], sound[::64]
    true = np.interp(np.arange(32_000) / 16_000, np.arange(len(true)) / 44_100, true)
    assert np.corrcoef(np.abs(read), np.abs(true))[0, 1] > 0.8


@pytest.mark.parametrize(("codec", "rate", "frame"), [("ac3", 48_000, 1536), ("real_144", 8000, 160)])
def test_realmedia(tmp_path, media, codec, rate, frame):
    """The second has the same time in all its packets."""
    path = media.write_sound(tmp_path / "a.rm", media.speech(2, rate), rate, codec, "mono", frame=frame)
    assert open_audio(path).seconds == pytest.approx(2, abs=0.1)
