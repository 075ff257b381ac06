"""Sounds that are joined, encrypted, or told otherwise by their headers than they are; see `sounds`."""

import base64
import struct
from collections.abc import Callable, Iterator

import numpy as np

from tests.media.dsd import dsdiff

from .rare_sounds import AAC, FLOATS, MP3, OPUS, followed, replaced
from .sounds import H264, Change, Kind, claimed, repeated, unfilled

CENC = [
    "-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb",
    "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8",
]  # fmt: skip
PCM = bytes.fromhex("0100000000001000800000aa00389b71")
CHAPTERS = ";FFMETADATA1\n" + "".join(
    f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={start + 1500}\ntitle=Part\n" for start in (0, 1500)
)
SUBTITLES = "1\n00:00:00,000 --> 00:00:02,000\nhello\n\n"
MPEG2 = ["-map", "1:v", "-map", "0:a", "-c:v", "mpeg2video"]
DV = ["-map", "1:v", "-map", "0:a", "-s", "720x576", "-pix_fmt", "yuv420p", "-c:v", "dvvideo", "-ac", "2"]
DSD_RATE, DSD_TIMES = 2_822_400, 64


def data_url(text: str) -> str:
    """A text as a file that ffmpeg opens."""
    return "data:text/plain;base64," + base64.b64encode(text.encode()).decode()


def valid_bits(bits: int, valid: int) -> Change:
    """A WAV of one channel whose header tells the bits of a sample and how many are used."""

    def change(data: bytes) -> bytes:
        (rate,) = struct.unpack_from("<I", data, 24)
        form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, rate, rate * bits // 8, bits // 8, bits, 22, valid, 4) + PCM
        body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + data[data.index(b"data") :]
        return b"RIFF" + struct.pack("<I", len(body)) + body

    return change


def frames_counted(times: float) -> Change:
    """An MP3 whose Xing header counts so many times its frames."""

    def change(data: bytes) -> bytes:
        at = max(data.find(b"Xing"), data.find(b"Info")) + 8
        count = min(0xFFFF_FFFF, int(struct.unpack_from(">I", data, at)[0] * times))
        return data[:at] + struct.pack(">I", count) + data[at + 4 :]

    return change


def behind_id3(data: bytes) -> bytes:
    """Behind 3 kB of tags, which are MP3's and which some programs write anywhere."""
    text = b"TIT2" + struct.pack(">I", 3000) + b"\0\0\0" + b"x" * 2999
    return b"ID3\x03\0\0" + bytes(len(text) >> 7 * shift & 0x7F for shift in (3, 2, 1, 0)) + text + data


def of_a_shop(data: bytes) -> bytes:
    """An M4A whose sound is called encrypted, as iTunes did."""
    return data.replace(b"mp4a\0\0\0\0", b"drms\0\0\0\0")


def with_picture(data: bytes) -> bytes:
    """A FLAC with a picture of 5 MB before its sound."""
    picture = np.random.default_rng(0).bytes(5_000_000)
    return (
        data[:4]
        + bytes([data[4] & 0x7F])
        + data[5:42]
        + b"\x06"
        + struct.pack(">I", len(picture))[1:]
        + picture
        + data[42:]
    )


def of_one_bit(samples: bytes) -> bytes:
    """A DSDIFF file of one bit, made from floats at 44.1 kHz."""
    levels = np.repeat(np.frombuffer(samples, "<f4"), DSD_TIMES).astype(np.float64)
    return dsdiff(np.diff(np.floor(np.cumsum((levels * 0.5 + 1) / 2)), prepend=0).astype(np.uint8), DSD_RATE)


# The kinds


def joins() -> Iterator[Kind]:
    """The speech two times, one file behind the other."""
    fragments = ["-movflags", "frag_keyframe+empty_moov", "-frag_duration", "300000"]
    for name, file, options in (
        ("M4A, ALAC", "a.m4a", ["-c:a", "alac"]), ("M4A, ALAC, fragmented", "a.m4a", ["-c:a", "alac", *fragments]),
        ("MOV, PCM", "a.mov", ["-c:a", "pcm_s16be"]), ("MKV, FLAC", "a.mkv", ["-c:a", "flac"]),
        ("WebM, Opus", "a.webm", OPUS), ("WebM of a browser's recorder", "a.webm", [*OPUS, "-live", "1"]),
        ("FLV, PCM", "a.flv", ["-c:a", "pcm_s16le", "-ar", "44100"]), ("AVI, PCM", "a.avi", ["-c:a", "pcm_s16le"]),
        ("WMA, PCM", "a.wma", ["-c:a", "pcm_s16le"]), ("AIFF", "a.aiff", []), ("AU", "a.au", ["-c:a", "pcm_s16be"]),
        ("CAF", "a.caf", ["-c:a", "pcm_s16be"]), ("W64", "a.w64", []), ("WavPack", "a.wv", ["-c:a", "wavpack"]),
        ("TTA", "a.tta", []),
    ):  # fmt: skip
        yield Kind(f"{name}, two joined", file, options, repeated(2), "twice")
    for name, file, options in (("MPEG-TS", "a.ts", AAC), ("MP2", "a.mp2", []), ("AC-3", "a.ac3", [])):
        yield Kind(f"{name}, two joined", file, options, repeated(2), "itself")
    yield Kind("MP3, 48 behind 44.1 kHz", "a.mp3", [*MP3, "-ar", "44100"],
               followed(*MP3, "-ar", "48000", name="mp3"), "itself")  # fmt: skip


def headers() -> Iterator[Kind]:
    """Headers that say other things than the sound."""
    for bits, valid, codec in ((32, 24, "pcm_s32le"), (24, 20, "pcm_s24le"), (16, 12, "pcm_s16le")):
        yield Kind(f"WAV, {valid} bits in {bits}", "a.wav", ["-c:a", codec], valid_bits(bits, valid))
    change = replaced(22, struct.pack("<H", 24), b"fmt ")
    yield Kind("WAV, 24 bits in 32, by an old header", "a.wav", ["-c:a", "pcm_s32le"], change)
    yield Kind("WAV, block of 0 bytes", "a.wav", [], replaced(20, bytes(2), b"fmt "))
    yield Kind("WAV, the data told as half", "a.wav", [], claimed(144_000))
    yield Kind("WAV, size of the file 0", "a.wav", [], replaced(4, bytes(4)))
    for name, place in (("channels", 10), ("rate", 12), ("bits", 22)):
        what = "unknown coding" if name == "bits" else "damaged"
        yield Kind(
            f"WAV, {name} 0", "a.wav", [], replaced(place, bytes(2 + 2 * (name == "rate")), b"fmt "), refused=what
        )
    for times in (2, 0.5, 0, 2.0**40):
        yield Kind(f"MP3, {times:.3g} times its frames counted", "a.mp3", MP3, frames_counted(times))
    for name, file, options in (
        ("FLAC", "a.flac", []), ("AAC", "a.aac", AAC), ("AC-3", "a.ac3", []), ("TTA", "a.tta", []),
        ("Opus", "a.opus", OPUS), ("WAV", "a.wav", []), ("AIFF", "a.aiff", []), ("M4A", "a.m4a", AAC),
        ("WavPack", "a.wv", ["-c:a", "wavpack"]),
    ):  # fmt: skip
        yield Kind(f"{name} behind ID3 tags", file, options, behind_id3)
    yield Kind("WAV, two joined, behind ID3 tags", "a.wav", [], lambda data: behind_id3(2 * data), "twice")
    yield Kind("FLAC, a picture of 5 MB", "a.flac", [], with_picture)
    for rate in (1000, 44_056, 768_000):
        yield Kind(f"WAV, {rate} Hz", "a.wav", ["-ar", str(rate)])
    yield Kind("WAV, 100 Hz", "a.wav", ["-ar", "100"], refused="1000 to 768000 Hz are read")


def streams() -> Iterator[Kind]:
    """Chapters, covers, subtitles and clocks beside the sound; codecs at their edges."""
    cover = ["-f", "lavfi", "-i", "color=red:s=300x300:d=0.04", "-f", "ffmetadata", "-i", data_url(CHAPTERS),
             "-map", "0:a", "-map", "1:v", "-map_metadata", "2", "-map_chapters", "2", "-c:v", "mjpeg",
             "-frames:v", "1", "-disposition:v", "attached_pic"]  # fmt: skip
    yield Kind("M4B, chapters and a cover", "a.m4b", [*cover, *AAC, "-f", "ipod"])
    yield Kind("MP3, chapters and a cover", "a.mp3", [*cover, *MP3])
    yield Kind("MKA, chapters and a cover", "a.mka", [*cover, *OPUS])
    text = ["-f", "srt", "-i", data_url(SUBTITLES), "-map", "1:s", "-c:s", "srt"]
    yield Kind("MKV, subtitles beside the sound", "a.mkv", [*text, "-map", "0:a", *OPUS])
    yield Kind("MKV, subtitles alone", "a.mkv", text, refused="has no sound")
    yield Kind("M2TS, LPCM", "a.m2ts", [*H264, "-c:a", "pcm_bluray", "-ac", "2", "-mpegts_m2ts_mode", "1"],
               against="timed")  # fmt: skip
    yield Kind("MPEG-TS, SMPTE 302M", "a.ts", [*MPEG2, "-c:a", "s302m", "-strict", "-2", "-ac", "2", "-ar", "48000"],
               against="timed")  # fmt: skip
    for name, file, more in (("DV", "a.dv", []), ("AVI, DV", "a.avi", []), ("MOV, DV, timecode", "a.mov",
                             ["-timecode", "01:00:00:00"])):  # fmt: skip
        yield Kind(name, file, [*DV, "-c:a", "pcm_s16le", "-ar", "48000", *more], against="timed")
    for profile in ("aac_ltp", "aac_main", "mpeg2_aac_low"):
        yield Kind(f"AAC, {profile}", "a.m4a", [*AAC, "-profile:a", profile, "-strict", "-2"])
    for length in ("2.5", "60", "120"):
        yield Kind(f"Opus, frames of {length} ms", "a.opus", [*OPUS, "-frame_duration", length])
    for size in ("64", "65535"):
        yield Kind(f"FLAC, blocks of {size}", "a.flac", ["-frame_size", size, "-strict", "-2"])
    yield Kind("ALAC, 24 bit", "a.m4a", ["-c:a", "alac", "-sample_fmt", "s32p"])
    yield Kind("MP3, 320 kbit/s", "a.mp3", [*MP3, "-b:a", "320k"])
    yield Kind("MP3, 8 kbit/s", "a.mp3", [*MP3, "-ar", "8000", "-b:a", "8k"])
    yield Kind("RealMedia, AC-3", "a.rm", ["-c:a", "ac3"])
    yield Kind("DSD (DSDIFF)", "a.dff", ["-f", "f32le", "-ar", "44100", *FLOATS], of_one_bit, "itself")


def stopped() -> Iterator[Kind]:
    """Downloads that took their room and stopped at 60 %: the rest is zeros."""
    for name, file, options in (
        ("WAV, which may be silent", "a.wav", []), ("FLAC", "a.flac", []), ("MP3", "a.mp3", MP3),
        ("MP3 without Xing header", "a.mp3", [*MP3, "-write_xing", "0"]), ("AAC", "a.aac", AAC), ("AC-3", "a.ac3", []),
        ("M4A, index in front", "a.m4a", [*AAC, "-movflags", "faststart"]), ("MKV", "a.mkv", [*MPEG2, *AAC]),
        ("WebM", "a.webm", OPUS), ("MPEG-TS", "a.ts", AAC), ("WavPack", "a.wv", ["-c:a", "wavpack"]),
    ):  # fmt: skip
        yield Kind(name, file, options, unfilled(0.6))
    yield Kind("M4A", "a.m4a", AAC, unfilled(0.6), refused="damaged")


def others() -> Iterator[Kind]:
    """What is encrypted, and files that are no sound."""
    yield Kind("M4A, encrypted", "a.m4a", [*AAC, *CENC], refused="encrypted against copying")
    yield Kind("MP4, Opus, encrypted", "a.mp4", [*OPUS, *CENC], refused="encrypted against copying")
    yield Kind("M4P of a shop", "a.m4p", [*AAC, "-f", "mp4"], of_a_shop, refused="encrypted against copying")
    for name, file, content, words in (
        ("MIDI", "a.mid", b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0", "is MIDI"),
        ("Audacity's project", "a.aup3", b"SQLite format 3\0" + bytes(4000), "a database, such as Audacity's"),
        ("cue sheet", "a.cue", b'FILE "a.wav" WAVE\n', "a text file"),
        ("text in UTF-8", "a.mp3", "你好\n".encode() * 99, "a text file that begins with '你好'"),
        ("SILK of a messenger", "a.silk", b"\2#!SILK_V3" + bytes(range(256)), "is SILK"),
        ("AMR, damaged", "a.amr", b"#!AMR\n" + b"\xff" * 999, "a damaged AMR"),
        ("link to a CD's track", "a.cda", b"RIFF$\0\0\0CDDAfmt " + bytes(28), "a link to a track of a CD"),
        ("macOS's companion of a file", "._a.wav", b"\0\5\x16\7\0\2\0\0" + bytes(4000), "is what macOS keeps beside"),
        ("iCloud's placeholder", "a.wav", b"bplist00\xd4" + bytes(99), "iCloud"),
        ("Windows shortcut", "a.wav", b"L\0\0\0\1\x14\2\0" + bytes(999), "a Windows shortcut"),
        ("program", "a.mp3", b"MZ\x90\0" + bytes(999), "a program"),
        ("git-LFS pointer", "a.wav", b"version https://git-lfs.github.com/spec/v1\n", "a text file"),
        ("document", "a.wav", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(999), "a document"),
        ("telephone's picture", "a.mp3", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "a picture"),
        ("noise", "a.mp3", np.random.default_rng(0).bytes(50_000), "damaged"),
    ):  # fmt: skip
        yield Kind(name, file, ["-f", "s16le"], lambda _, content=content: content, refused=words)


GROUPS: dict[str, Callable[[], Iterator[Kind]]] = {
    "Joined": joins, "Headers that tell other things": headers, "Beside the sound, and at the codecs' edges": streams,
    "Zeros in place of the end": stopped, "Encrypted, or no sound": others,
}  # fmt: skip
