"""A file that is shorter than its own header says is cut off, in formats that do not tell how long their sound is."""

import struct

import pytest

from livetalk_core.media.audio import open_audio
from livetalk_core.media.claims import ASF_PROPERTIES, lacks_end

RATE = 48_000


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "pcm_s16le"), ("a.avi", "libmp3lame"), ("a.aiff", "pcm_s16be"), ("a.au", "pcm_s16be"),
     ("a.w64", "pcm_s16le")],
)  # fmt: skip
def test_what_a_header_promises_is_missed(tmp_path, media, name, codec):
    path = media.write_sound(tmp_path / name, media.speech(3, RATE), RATE, codec, "mono", frame=1152)
    whole = open_audio(path)
    assert not whole.notes
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    (note,) = open_audio(path).notes
    assert "cut off at 00:00:01; what followed is unreadable" in note


def test_rf64(tmp_path, media):
    path = media.write_sound(tmp_path / "a.wav", media.speech(3, RATE), RATE, "pcm_s16le", "mono", rf64="always")
    assert path.read_bytes()[:4] == b"RF64" and not open_audio(path).notes
    path.write_bytes(path.read_bytes()[:150_000])
    (note,) = open_audio(path).notes
    assert "cut off at 00:00:01" in note


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.parametrize(
    ("name", "begin", "order"), [("avi", b"RIFF", "<"), ("aiff", b"FORM", ">"), ("au", b".snd\0\0\0\x18", ">")]
)
def test_sizes_that_stand_for_unknown_promise_nothing(tmp_path, name, begin, order, size):
    path = tmp_path / "a"
    path.write_bytes(begin + struct.pack(f"{order}I", size) + bytes(500))
    assert not lacks_end(path, name)
    path.write_bytes(begin + struct.pack(f"{order}I", 5_000) + bytes(500))
    assert lacks_end(path, name)


def test_wma_says_its_files_size(tmp_path):
    path = tmp_path / "a.wma"
    head = ASF_PROPERTIES + struct.pack("<Q", 104) + bytes(16) + struct.pack("<Q", 9_000)
    for size, cut in ((9_000, False), (5_000, True)):
        path.write_bytes((bytes(30) + head).ljust(size, b"x"))
        assert lacks_end(path, "asf") == cut


def test_what_is_shorter_than_a_header_promises_nothing(tmp_path):
    path = tmp_path / "a"
    for name in ("avi", "aiff", "au", "asf", "w64", "dsf", "wav", "mp3"):
        path.write_bytes(b"RF64")
        assert not lacks_end(path, name)
