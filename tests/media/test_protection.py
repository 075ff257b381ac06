"""Sound that is encrypted is refused for what it is: it was noise, or damage."""

import re
import struct

import pytest

from livetalk_core.errors import InputError
from livetalk_core.media.audio import open_audio
from livetalk_core.media.protection import ASF_ENCRYPTIONS, ASF_HEADER, is_protected

RATE = 48_000
CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


@pytest.mark.parametrize("codec", ["aac", "libopus"])
@pytest.mark.parametrize("index", ["", "faststart"])
def test_common_encryption(tmp_path, media, codec, index):
    options = {**CENC, **({"movflags": index} if index else {})}
    frame = 960 if codec == "libopus" else 1024
    path = media.write_sound(tmp_path / "a.mp4", media.speech(2, RATE), RATE, codec, "mono", frame=frame, **options)
    with pytest.raises(InputError, match=re.escape("encrypted against copying (DRM)")):
        open_audio(path)


@pytest.mark.parametrize("entry", [b"drms", b"aavd"])
def test_shops(tmp_path, media, entry):
    path = media.write_sound(tmp_path / "a.m4a", media.speech(1, RATE), RATE, "aac", "mono")
    assert not is_protected(path)
    path.write_bytes(path.read_bytes().replace(b"mp4a\0\0\0\0\0\0", entry + bytes(6)))
    assert is_protected(path)


@pytest.mark.parametrize("name", ASF_ENCRYPTIONS)
def test_windows_media(tmp_path, media, name):
    path = media.write_sound(tmp_path / "a.wma", media.speech(1, RATE), RATE, "pcm_s16le", "mono")
    data = path.read_bytes()
    assert not is_protected(path)
    encryption = name + struct.pack("<Q", 24)
    path.write_bytes(data[:16] + struct.pack("<Q", len(encryption) + struct.unpack_from("<Q", data, 16)[0])
                     + data[24:30] + encryption + data[30:])  # fmt: skip
    assert is_protected(path)
    path.write_bytes(data + encryption)  # behind the header: sound
    assert not is_protected(path)


@pytest.mark.parametrize("content", [b"", b"\0\0\0\x08ftyp", b"\0\0\0\x08ftyp\0\0\0\0moov", ASF_HEADER + b"\xff" * 8])
def test_what_ends_early_is_not_encrypted(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert not is_protected(path)
