"""Sounds that few programs write, with headers, clocks and joins of their own; see `sounds`."""

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .sounds import H264, VIDEO, Change, Kind, claimed, cut, ffmpeg, overwritten, pan, repeated

STEREO = "pan=stereo|c0=0.8*c0|c1=0.6*c0"
AAC, OPUS, MP3, VORBIS = (["-c:a", codec] for codec in ("aac", "libopus", "libmp3lame", "libvorbis"))
FLOATS = ["-c:a", "pcm_f32le"]
FRAGMENTS = ["-movflags", "frag_keyframe+empty_moov", "-frag_duration", "300000"]
PAGES = ["-page_duration", "200000"]
DSD_RATE, DSD_BLOCK = 2_822_400, 4096


# What is changed in a file


def replaced(place: int, new: bytes, behind: bytes = b"") -> Change:
    """Other bytes at a place of the file, or so far behind the first `behind`."""

    def change(data: bytes) -> bytes:
        at = place + (data.index(behind) if behind else 0)
        return data[:at] + new + data[at + len(new) :]

    return change


def followed(*options: str, name: str) -> Change:
    """The speech once more behind it, coded otherwise."""

    def change(data: bytes) -> bytes:
        return data + ffmpeg("-i", "pipe:0", *options, "-f", name, "pipe:1", data=data)

    return change


def with_chunks_before(data: bytes) -> bytes:
    """A WAV with a chunk of odd length and 30 kB of text before its format."""
    junk = b"JUNK" + struct.pack("<I", 27) + b"j" * 27 + b"\0" + b"LIST" + struct.pack("<I", 30_000) + b"INFO" * 7_500
    return data[:12] + junk + data[12:]


def with_cover(data: bytes) -> bytes:
    """An MP3 behind a picture of 20 MB."""
    body = b"\0image/jpeg\0\x03\0" + np.random.default_rng(3).bytes(20_000_000)
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    return b"ID3\x03\0\0" + bytes(len(frame) >> 7 * shift & 0x7F for shift in (3, 2, 1, 0)) + frame + data


def with_ape_tag(data: bytes) -> bytes:
    """An MP3 before a tag of 100 kB as foobar2000 writes it."""
    item = struct.pack("<II", 100_000, 2) + b"Cover Art (Front)\0" + bytes(100_000)
    ends = [
        b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8) for flags in (5 << 29, 1 << 31)
    ]
    return data + ends[0] + item + ends[1] + b"TAG" + bytes(125)


def flac_without(md5: bool = False, length: bool = False) -> Change:
    """A FLAC whose header lacks the sum or the number of its samples, as where it was written to a pipe."""

    def change(data: bytes) -> bytes:
        data = data[:26] + bytes(16) + data[42:] if md5 else data
        return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:] if length else data

    return change


def dsd(samples: bytes) -> bytes:
    """A DSF file of one bit, made from floats at 44.1 kHz by first-order noise shaping."""
    levels = np.repeat(np.frombuffer(samples, "<f4"), DSD_RATE // 44_100).astype(np.float64)
    bits = np.diff(np.floor(np.cumsum((levels * 0.5 + 1) / 2)), prepend=0).astype(np.uint8)
    data = np.packbits(bits, bitorder="little").tobytes()
    data += bytes(-len(data) % DSD_BLOCK)
    form = b"fmt " + struct.pack("<QIIIIIIQII", 52, 1, 0, 1, 1, DSD_RATE, 1, len(bits), DSD_BLOCK, 0)
    body = form + b"data" + struct.pack("<Q", 12 + len(data)) + data
    return b"DSD " + struct.pack("<QQQ", 28, 28 + len(body), 0) + body


def spdif(data: bytes) -> bytes:
    """The signal of a digital cable, recorded as a WAV."""
    form = struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 192_000, 4, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data)) + data
    )


def paged(edit: Callable[[int, bytearray], None], without: int = 0) -> Change:
    """An Ogg file whose pages are edited, by number, and their sums mended; without some of the first with sound."""

    def change(data: bytes) -> bytes:
        pages = [bytearray(b"OggS" + page) for page in data.split(b"OggS")[1:]]
        for number, page in enumerate(pages):
            edit(number, page)
            page[22:26] = bytes(4)
            page[22:26] = struct.pack("<I", _ogg_sum(bytes(page)))
        return b"".join(map(bytes, pages[:2] + pages[2 + without :]))

    return change


def _ogg_sum(page: bytes) -> int:
    """Ogg's checksum: the usual polynomial, highest bit first, from 0 and not inverted; by zlib's, mirrored."""
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in page)
    plain = zlib.crc32(mirrored, 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{plain:032b}"[::-1], 2)


def later(samples: int) -> Callable[[int, bytearray], None]:
    """The position of each page moved."""

    def edit(number: int, page: bytearray) -> None:
        (position,) = struct.unpack("<q", page[6:14])
        if number > 1 and position > 0:
            page[6:14] = struct.pack("<q", position + samples)

    return edit


def opus_head(place: int, new: bytes) -> Callable[[int, bytearray], None]:
    """Bytes of the first page's head."""

    def edit(number: int, page: bytearray) -> None:
        if number == 0:
            at = page.index(b"OpusHead") + place
            page[at : at + len(new)] = new

    return edit


def levels(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """The samples of a WAV of floats."""

    def changed(data: bytes) -> bytes:
        at = data.index(b"data") + 8
        return data[:at] + change(np.frombuffer(data[at:], "<f4")).astype("<f4").tobytes()

    return changed


def now_and_then(value: float) -> Change:
    """Every thousandth sample is `value`."""
    return levels(lambda sound: np.where(np.arange(len(sound)) % 1000 == 0, np.float32(value), sound))


# The kinds


def headers() -> Iterator[Kind]:
    """Uncompressed sound with odd headers."""
    for mask in (0, 1, 0x60, 0xFFFF_FFFF):
        change = replaced(28, struct.pack("<I", mask), b"fmt ")
        yield Kind(
            f"WAV, extensible, mask 0x{mask:X} for two channels", "a.wav", ["-c:a", "pcm_s24le"], change, filters=STEREO
        )
    for mask in (0, 0x3F):
        change = replaced(28, struct.pack("<I", mask), b"fmt ")
        yield Kind(f"WAV, extensible, mask 0x{mask:X} for eight", "a.wav", [], change, filters=pan(8, "7.1"))
    yield Kind("WAV, big endian (RIFX)", "a.wav", [], replaced(0, b"RIFX"), refused="big-endian")
    yield Kind("BW64", "a.wav", ["-rf64", "always"], replaced(0, b"BW64"))
    yield Kind("RF64 cut off at 60 %", "a.wav", ["-rf64", "always"], cut(0.6))
    yield Kind("WAV, junk and text before the format", "a.wav", [], with_chunks_before)
    yield Kind("WAV, 8 bit of odd length, not padded", "a.wav", ["-c:a", "pcm_u8"], lambda data: data[:-1])
    yield Kind("WAV, integers of 64 bits", "a.wav", ["-c:a", "pcm_s64le"])
    yield Kind("WAV, no byte rate", "a.wav", [], replaced(16, bytes(4), b"fmt "))
    yield Kind("WAV, one byte more claimed", "a.wav", [], claimed(3 * 96_000 + 1))
    for name, codec, rate in (
        ("G.722", "g722", 16_000), ("G.726", "g726", 8000), ("G.723.1", "g723_1", 8000),
        ("FLAC inside", "flac", 48_000), ("WMA inside", "wmav2", 48_000), ("DTS inside", "dca", 48_000),
    ):  # fmt: skip
        yield Kind(
            f"WAV, {name}",
            "a.wav",
            ["-c:a", codec, "-ar", str(rate), "-strict", "-2", "-ac", "2" if codec == "dca" else "1"],
        )
    yield Kind("WAV of S/PDIF with AC-3", "a.wav", ["-f", "spdif", "-c:a", "ac3", "-ar", "48000"], spdif, "itself")
    for name, codec in (
        ("float", "pcm_f32le"),
        ("24 bit", "pcm_s24be"),
        ("mu-law", "pcm_mulaw"),
        ("IMA", "adpcm_ima_qt"),
        ("Opus", "libopus"),
    ):
        yield Kind(f"CAF, {name}", "a.caf", ["-c:a", codec])
    yield Kind("CAF, size unknown", "a.caf", ["-c:a", "pcm_s16be"], replaced(4, b"\xff" * 8, b"data"))
    for codec in ("pcm_s16le", "pcm_mulaw", "pcm_alaw", "pcm_f32be", "pcm_f64be", "pcm_s8", "adpcm_ima_qt"):
        yield Kind(f"AIFF-C, {codec}", "a.aif", ["-f", "aiff", "-c:a", codec])
    yield Kind("AIFF cut off at 60 %", "a.aiff", [], cut(0.6))
    for codec in ("pcm_f32be", "pcm_f64be", "pcm_s24be", "pcm_alaw", "pcm_s8"):
        yield Kind(f"AU, {codec}", "a.au", ["-c:a", codec])
    yield Kind("AU, size unknown", "a.au", ["-c:a", "pcm_s16be"], replaced(8, b"\xff" * 4))
    yield Kind("W64, float", "a.w64", FLOATS)
    yield Kind("IRCAM", "a.sf", ["-f", "ircam", "-c:a", "pcm_s16le"])
    yield Kind("DSD (DSF)", "a.dsf", ["-f", "f32le", "-ar", "44100", *FLOATS], dsd, "itself")


def streams() -> Iterator[Kind]:
    """Compressed sound with odd heads, tags and clocks."""
    yield Kind("MP3 behind a picture of 20 MB", "a.mp3", MP3, with_cover)
    yield Kind("MP3, APE tag and ID3v1 behind it", "a.mp3", MP3, with_ape_tag)
    yield Kind("MP3, mono and stereo joined", "a.mp3", MP3, followed(*MP3, "-ac", "2", name="mp3"), "itself")
    yield Kind("M4A that begins at 0.5 s by its edit list", "a.m4a", [*AAC, "-output_ts_offset", "0.5"])
    yield Kind("M4A without edit list", "a.m4a", [*AAC, "-use_editlist", "0"])
    yield Kind("M4A, DASH", "a.m4a", [*AAC, "-movflags", "dash+frag_keyframe+empty_moov", "-frag_duration", "400000"])
    yield Kind("M4A, fragmented, cut in a fragment", "a.m4a", [*AAC, *FRAGMENTS], cut(0.7))
    yield Kind("M4A, fragmented, ALAC", "a.m4a", ["-c:a", "alac", *FRAGMENTS])
    for kind, codec, options, follower in (
        ("Opus, mono behind stereo", OPUS, ["-ac", "2"], [*OPUS, "-ac", "1"]),
        ("Vorbis, 22 kHz behind 44", VORBIS, ["-ar", "44100"], [*VORBIS, "-ar", "22050"]),
        ("Vorbis behind Opus", OPUS, [], VORBIS), ("FLAC in Ogg, two chained", ["-c:a", "flac"], [], ["-c:a", "flac"]),
    ):  # fmt: skip
        yield Kind(kind, "a.ogg", [*codec, *options], followed(*follower, name="ogg"), "twice")
    yield Kind(
        "Opus, gain of -6 dB in its head", "a.opus", OPUS, paged(opus_head(16, struct.pack("<h", -1536))), "itself"
    )
    yield Kind(
        "Opus, half a second to be left out", "a.opus", OPUS, paged(opus_head(10, struct.pack("<H", 24_000))), "itself"
    )
    yield Kind(
        "Opus of a broadcast, an hour after its begin",
        "a.opus",
        [*OPUS, *PAGES],
        paged(later(3600 * 48_000), 3),
        "itself",
    )
    yield Kind("FLAC without MD5", "a.flac", [], flac_without(md5=True))
    yield Kind("FLAC, length unknown", "a.flac", [], flac_without(length=True))
    yield Kind("FLAC, two joined", "a.flac", [], repeated(2), "twice")
    yield Kind("WavPack, float", "a.wv", ["-c:a", "wavpack", "-sample_fmt", "fltp"])
    yield Kind("AC-3, 900 bytes of noise", "a.ac3", [], overwritten(900))
    yield Kind("WMA cut off at 60 %", "a.wma", ["-c:a", "wmav2"], cut(0.6))
    for name, file, options in (
        ("MP3", "a.mp3", MP3),
        ("Opus", "a.opus", OPUS),
        ("FLAC", "a.flac", []),
        ("AAC", "a.aac", AAC),
    ):
        yield Kind(f"{name}, one sample", file, options, filters="atrim=end_sample=1")


def films() -> Iterator[Kind]:
    """Containers with odd tracks and clocks."""
    for codec in ("pcm_s24be", "pcm_s32le", "pcm_f32le", "pcm_f64be", "pcm_mulaw", "pcm_u8"):
        yield Kind(f"MOV, {codec}", "a.mov", [*H264, "-c:a", codec], against="timed")
    yield Kind(
        "MOV, two mono tracks",
        "a.mov",
        ["-map", "1:v", "-map", "0:a", "-map", "0:a", "-c:v", "mpeg4", "-c:a", "pcm_s16le"],
        against="timed",
    )
    two = ["-map", "0:a", "-map", "0:a", "-c:a", "flac", "-disposition:a:0"]
    for name, first, second in (("second", "0", "default"), ("none", "0", "0"), ("both", "default", "default")):
        yield Kind(f"MKA, two tracks, {name} default", "a.mka", [*two, first, "-disposition:a:1", second])
    yield Kind("MKV, TrueHD", "a.mkv", [*VIDEO, "-c:a", "truehd", "-strict", "-2", "-ac", "2"], against="timed")
    for name in ("mkv", "mp4"):
        yield Kind(
            f"{name.upper()} that begins at an hour",
            f"a.{name}",
            [*H264, *AAC, "-output_ts_offset", "3600"],
            against="timed",
        )
    yield Kind("MKA that begins at 10 s", "a.mka", [*OPUS, "-output_ts_offset", "10"])
    yield Kind("MPEG-TS whose clock turns over", "a.ts", [*H264, *AAC, "-output_ts_offset", "95442.2"], against="timed")
    yield Kind("MPEG-TS, LATM", "a.ts", [*H264, *AAC, "-mpegts_flags", "latm"], against="timed")
    yield Kind("MPEG-TS, Opus", "a.ts", [*H264, *OPUS], against="timed")
    yield Kind("AVI, MP3 of variable rate", "a.avi", [*VIDEO, *MP3, "-q:a", "5"], against="timed")
    yield Kind("AVI without index", "a.avi", [*VIDEO, *MP3], replaced(0, b"JUNK", b"idx1"), "timed")
    yield Kind("AVI cut off at 60 %", "a.avi", [*VIDEO, "-c:a", "pcm_s16le"], cut(0.6))
    for name, codec, rate in (
        ("Speex", "libspeex", 16_000),
        ("Nellymoser", "nellymoser", 22_050),
        ("mu-law", "pcm_mulaw", 8000),
    ):
        yield Kind(f"FLV, {name}", "a.flv", ["-c:a", codec, "-ar", str(rate)])
    yield Kind("F4V", "a.f4v", [*H264, *AAC], against="timed")


def numbers() -> Iterator[Kind]:
    """Samples that are hardly sound, and files that are none."""
    yield Kind("square wave of full scale", "a.wav", [], filters="aeval=gt(sin(600*2*PI*t)\\,0)*2-1:c=same")
    yield Kind(
        "whole numbers of 16 bits as floats", "a.wav", FLOATS, levels(lambda sound: sound * 32768), refused="full scale"
    )
    yield Kind("floats of 1e30 now and then", "a.wav", FLOATS, now_and_then(1e30), refused="full scale")
    yield Kind("infinite floats", "a.wav", FLOATS, now_and_then(np.inf), refused="infinite")
    for name, begin, words in (
        ("picture as sound", b"\x89PNG\r\n\x1a\n", "is a picture"),
        ("archive as sound", b"PK\x03\x04", "is an archive"),
        ("JSON as sound", b'{"error": 404}', "a text file"), ("zeros as sound", b"", "damaged"),
    ):  # fmt: skip
        yield Kind(
            name, "a.mp3", MP3, lambda _, begin=begin: begin + bytes(20_000 * (begin[:1] != b"{")), refused=words
        )


GROUPS: dict[str, Callable[[], Iterator[Kind]]] = {
    "Rare headers": headers, "Rare streams": streams, "Rare containers": films, "Odd samples": numbers,
}  # fmt: skip
