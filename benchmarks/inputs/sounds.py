"""Sounds of every kind, made with ffmpeg from three seconds of the demo's speech, and what each is compared with."""

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Change = Callable[[bytes], bytes]
SECONDS = 3
RATE = 48_000
PICTURE = ["-f", "lavfi", "-i", f"color=gray:s=64x64:r=25:d={SECONDS}"]
VIDEO = ["-map", "1:v", "-map", "0:a", "-c:v", "mpeg4", "-q:v", "9"]
H264 = ["-map", "1:v", "-map", "0:a", "-c:v", "libx264", "-preset", "ultrafast"]


class Kind(NamedTuple):
    """One kind of sound file.

    `options` of ffmpeg make it from the speech; `change` then makes it odd. What is read is compared with ffmpeg's
    decode of the file before the change, of the file as it is (`itself`, or `timed`: at its times against the picture),
    or of the speech, once (`clean`) or two times (`twice`). `refused`: part of the message that is right for it.
    """

    name: str
    file: str
    options: list[str]
    change: Change | None = None
    against: str = "before"
    refused: str = ""
    filters: str = ""


def ffmpeg(*arguments: "str | Path", data: bytes | None = None) -> bytes:
    """What ffmpeg writes to its output."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, input=data, capture_output=True).stdout


def make(kind: Kind, speech: Path, folder: Path) -> tuple[Path, Path]:
    """The file, and what ffmpeg is to decode for the comparison."""
    path, before = folder / kind.file, folder / f"before.{kind.file}"
    inputs = ["-i", speech, *(PICTURE if kind.options[:2] == ["-map", "1:v"] else [])]
    filters = ["-af", kind.filters] if kind.filters else []
    ffmpeg(*inputs, *filters, *kind.options, before)
    data = before.read_bytes()
    path.write_bytes(kind.change(data) if kind.change else data)
    if kind.against == "twice":
        twice = folder / "twice.wav"
        ffmpeg("-stream_loop", "1", "-i", speech, twice)
        return path, twice
    return path, {"before": before, "itself": path, "timed": path, "clean": speech}[kind.against]


# What is changed in a file


def cut(share: float) -> Change:
    """Only so much of it, from the beginning."""
    return lambda data: data[: int(share * len(data))]


def unfilled(share: float) -> Change:
    """Only so much of it, and zeros up to its size: a download that took its room and stopped."""
    return lambda data: data[: int(share * len(data))].ljust(len(data), b"\0")


def without_start(share: float) -> Change:
    """Cut at the beginning."""
    return lambda data: data[int(share * len(data)) :]


def overwritten(size: int, at: float = 0.5, value: int | None = None) -> Change:
    """Some bytes replaced by noise, or by one value."""

    def change(data: bytes) -> bytes:
        noise = np.random.default_rng(1).bytes(size) if value is None else bytes([value]) * size
        place = int(at * len(data))
        return data[:place] + noise + data[place + size :]

    return change


def inserted(size: int, at: float = 0.5) -> Change:
    """Stray bytes within."""
    return lambda data: data[: int(at * len(data))] + b"\x37" * size + data[int(at * len(data)) :]


def flipped(count: int) -> Change:
    """Single bits turned over, here and there behind the headers."""

    def change(data: bytes) -> bytes:
        result, chance = bytearray(data), np.random.default_rng(2)
        for place in chance.integers(len(data) // 4, len(data), count):
            result[place] ^= 1 << int(chance.integers(8))
        return bytes(result)

    return change


def repeated(times: int) -> Change:
    """Behind itself."""
    return lambda data: data * times


def claimed(size: int) -> Change:
    """A WAV whose header gives another size."""

    def change(data: bytes) -> bytes:
        at = data.index(b"data") + 4
        riff = min(size + at - 4, 0xFFFF_FFFF)
        return data[:4] + struct.pack("<I", riff) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]

    return change


def page_lost(number: int) -> Change:
    """An Ogg file without one of its pages."""

    def change(data: bytes) -> bytes:
        pages = data.split(b"OggS")[1:]
        del pages[number]
        return b"".join(b"OggS" + page for page in pages)

    return change


def tagged(data: bytes) -> bytes:
    """With 20 kB of tags before and behind it, as music players write."""
    text = b"TXXX" + struct.pack(">I", 20_000) + b"\0\0" + b"\0" + b"x" * 19_999
    size = len(text)
    head = b"ID3\x03\0\0" + bytes(size >> 7 * shift & 0x7F for shift in (3, 2, 1, 0))
    return head + text + data + b"TAG" + b"y" * 125


def with_chunk_behind(data: bytes) -> bytes:
    """A WAV with a chunk of text behind its samples."""
    return data + b"LIST" + struct.pack("<I", 30_000) + b"INFO" * 7_500


# The kinds


def pan(channels: int, layout: str) -> str:
    """The speech in every channel, each a little quieter than the one before."""
    return f"pan={layout}|" + "|".join(f"c{channel}={0.9 - 0.03 * channel}*c0" for channel in range(channels))


def waves() -> Iterator[Kind]:
    """Uncompressed sound, and WAV's codecs."""
    for codec in ("u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"):
        yield Kind(f"WAV, {codec}", "a.wav", ["-c:a", f"pcm_{codec}"])
    for codec in ("adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha"):
        yield Kind(f"WAV, {codec}", "a.wav", ["-c:a", codec])
    yield Kind("WAV, GSM", "a.wav", ["-c:a", "libgsm_ms", "-ar", "8000"])
    yield Kind("WAV, MP3 inside", "a.wav", ["-c:a", "libmp3lame"])
    yield Kind("WAV, AC-3 inside", "a.wav", ["-c:a", "ac3"])
    yield Kind("WAV, broadcast (BWF)", "a.wav", ["-write_bext", "1", "-metadata", "description=take 1"])
    yield Kind("RF64", "a.wav", ["-rf64", "always"])
    for rate in (6000, 7350, 8000, 11025, 16000, 22050, 32000, 37800, 44100, 64000, 88200, 96000, 192_000, 384_000):
        yield Kind(f"WAV, {rate} Hz", "a.wav", ["-ar", str(rate)])
    for size in (0, 2_000_000_000, 0x7FFF_FFBF, 0x7FFF_FFFF, 0xFFFF_FFFF, 2**30):
        yield Kind(f"WAV of a server that streams, size 0x{size:X}", "a.wav", [], claimed(size))
    yield Kind("WAV cut off at 60 %", "a.wav", [], cut(0.6))
    yield Kind("WAV, three joined", "a.wav", [], repeated(3))
    yield Kind("WAV, text behind the sound", "a.wav", [], with_chunk_behind)
    yield Kind("WAV named .mp3", "a.mp3", ["-f", "wav"])
    yield Kind("W64", "a.w64", [])
    yield Kind("AIFF", "a.aiff", [])
    yield Kind("AIFF, 24 bit", "a.aiff", ["-c:a", "pcm_s24be"])
    yield Kind("CAF", "a.caf", ["-c:a", "pcm_s16be"])
    yield Kind("CAF, ALAC", "a.caf", ["-c:a", "alac"])
    yield Kind("AU", "a.au", ["-c:a", "pcm_mulaw", "-ar", "8000"])
    yield Kind("VOC", "a.voc", ["-c:a", "pcm_u8"])
    yield Kind("NIST SPHERE", "a.sph", ["-f", "s16le", "-ar", "16000"], sphere, against="clean")
    yield Kind("SoX", "a.sox", [])
    yield Kind("raw samples", "a.pcm", ["-f", "s16le"], refused="convert it to WAV")


def sphere(samples: bytes) -> bytes:
    """The header of the speech corpora."""
    count = len(samples) // 2
    fields = f"sample_count -i {count}\nsample_rate -i 16000\nchannel_count -i 1\nsample_n_bytes -i 2\n"
    fields += "sample_byte_format -s2 01\nsample_sig_bits -i 16\nsample_coding -s3 pcm\nend_head\n"
    return f"NIST_1A\n   1024\n{fields}".encode().ljust(1024) + samples


def compressed() -> Iterator[Kind]:
    """Sound alone, compressed."""
    mp3 = ["-c:a", "libmp3lame"]
    yield Kind("MP3", "a.mp3", mp3)
    yield Kind("MP3, VBR", "a.mp3", [*mp3, "-q:a", "4"])
    yield Kind("MP3 without Xing header", "a.mp3", [*mp3, "-write_xing", "0"])
    for rate in (8000, 16_000, 24_000):
        yield Kind(f"MP3, {rate} Hz", "a.mp3", [*mp3, "-ar", str(rate)])
    yield Kind("MP2", "a.mp2", ["-c:a", "mp2"])
    yield Kind("MP3, tags at both ends", "a.mp3", mp3, tagged)
    yield Kind("MP3, two joined with tags", "a.mp3", [*mp3, "-metadata", "title=part"], repeated(2), "itself")
    yield Kind("MP3, 26 stray bytes", "a.mp3", mp3, inserted(26))
    yield Kind("MP3, 900 bytes of noise", "a.mp3", mp3, overwritten(900))
    yield Kind("MP3, 900 zero bytes", "a.mp3", mp3, overwritten(900, value=0))
    yield Kind("MP3, 20 bits turned over", "a.mp3", mp3, flipped(20))
    yield Kind("MP3 cut off at 60 %", "a.mp3", mp3, cut(0.6))
    yield Kind("MP3 without its first 30 %", "a.mp3", mp3, without_start(0.3), "itself")
    yield Kind("MP3, zeros in front", "a.mp3", mp3, lambda data: bytes(700) + data, "itself")
    aac = ["-c:a", "aac"]
    yield Kind("AAC (ADTS)", "a.aac", aac)
    yield Kind("AAC (ADTS), 77 stray bytes", "a.aac", aac, inserted(77))
    yield Kind("AAC (ADTS), 20 bits turned over", "a.aac", aac, flipped(20))
    yield Kind("AAC (ADTS) cut off at 60 %", "a.aac", aac, cut(0.6))
    yield Kind("AAC (LATM)", "a.loas", [*aac, "-f", "latm"])
    yield Kind("M4A", "a.m4a", aac)
    yield Kind("M4A, 32 kHz", "a.m4a", [*aac, "-ar", "32000"])
    yield Kind("M4A, 96 kHz", "a.m4a", [*aac, "-ar", "96000"])
    yield Kind("M4A, ALAC", "a.m4a", ["-c:a", "alac"])
    yield Kind("M4A, fragmented", "a.m4a", [*aac, "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "500000"])
    yield Kind("M4A, 700 bytes of noise", "a.m4a", aac, overwritten(700))
    yield Kind("M4A, index in front, cut off at 60 %", "a.m4a", [*aac, "-movflags", "faststart"], cut(0.6))
    yield Kind("M4A, index lost", "a.m4a", aac, cut(0.6), refused="damaged, cut off or of another kind")
    opus, vorbis = ["-c:a", "libopus"], ["-c:a", "libvorbis"]
    yield Kind("Opus", "a.opus", opus)
    yield Kind("Opus, 12 kbit/s", "a.opus", [*opus, "-b:a", "12k"])
    yield Kind("Opus, pages of 0.2 s, one lost", "a.opus", [*opus, "-page_duration", "200000"], page_lost(7))
    yield Kind("Opus cut off at 60 %", "a.opus", [*opus, "-page_duration", "200000"], cut(0.6))
    yield Kind("Opus, two chained", "a.opus", opus, repeated(2))
    yield Kind("Vorbis", "a.ogg", vorbis)
    yield Kind("Vorbis, pages of 0.2 s, one lost", "a.ogg", [*vorbis, "-page_duration", "200000"], page_lost(8))
    yield Kind("Vorbis, a page of noise", "a.ogg", [*vorbis, "-page_duration", "200000"], overwritten(600))
    yield Kind("Vorbis, two chained", "a.ogg", vorbis, repeated(2))
    yield Kind("Speex", "a.ogg", ["-c:a", "libspeex", "-ar", "16000"])
    yield Kind("FLAC in Ogg", "a.ogg", ["-c:a", "flac"])
    yield Kind("FLAC", "a.flac", [])
    yield Kind("FLAC, 24 bit, 96 kHz", "a.flac", ["-sample_fmt", "s32", "-ar", "96000"])
    yield Kind("FLAC, 900 bytes of noise", "a.flac", [], overwritten(900))
    yield Kind("FLAC cut off at 60 %", "a.flac", [], cut(0.6))
    for name, file, options in (
        ("WavPack", "a.wv", ["-c:a", "wavpack"]), ("TTA", "a.tta", []), ("AC-3", "a.ac3", []),
        ("E-AC-3", "a.eac3", []), ("DTS", "a.dts", ["-c:a", "dca", "-strict", "-2", "-ac", "2"]),
        ("TrueHD", "a.thd", ["-c:a", "truehd", "-strict", "-2", "-ac", "2"]),
        ("WMA", "a.wma", ["-c:a", "wmav2", "-b:a", "64k"]), ("WMA 1", "a.wma", ["-c:a", "wmav1", "-b:a", "64k"]),
        ("GSM", "a.gsm", ["-c:a", "libgsm", "-ar", "8000"]),
    ):  # fmt: skip
        yield Kind(name, file, options)


def layouts() -> Iterator[Kind]:
    """The speech in every channel."""
    for channels, layout in ((2, "stereo"), (3, "2.1"), (3, "3.0"), (4, "quad"), (6, "5.1"), (7, "6.1"), (8, "7.1")):
        for name, codec in (("wav", "pcm_s16le"), ("m4a", "aac"), ("opus", "libopus"), ("ogg", "libvorbis"),
                            ("flac", "flac"), ("wv", "wavpack"), ("mka", "ac3")):  # fmt: skip
            if (codec == "ac3" and channels > 6) or (codec == "libopus" and layout == "2.1"):
                continue
            options = ["-c:a", codec] + (["-mapping_family", "1"] if codec == "libopus" else [])
            yield Kind(f"{layout}, {codec}", f"a.{name}", options, filters=pan(channels, layout))
    yield Kind("16 channels, WAV", "a.wav", [], filters=pan(16, "hexadecagonal"))
    yield Kind("stereo, one channel the other's negative", "a.wav", [], filters="pan=stereo|c0=c0|c1=-1*c0")
    yield Kind("stereo, right alone", "a.wav", [], filters="pan=stereo|c0=0*c0|c1=c0")


def videos() -> Iterator[Kind]:
    """Sound beside a picture, or in a film's container."""
    aac, opus, mp3 = ["-c:a", "aac"], ["-c:a", "libopus"], ["-c:a", "libmp3lame"]
    for name, file, options in (
        ("MP4, AAC", "a.mp4", [*H264, *aac]), ("MP4, Opus", "a.mp4", [*H264, *opus]),
        ("MP4, MP3", "a.mp4", [*H264, *mp3]), ("MP4, AC-3", "a.mp4", [*H264, "-c:a", "ac3"]),
        ("MP4, FLAC", "a.mp4", [*H264, "-c:a", "flac", "-strict", "-2"]),
        ("MOV, PCM", "a.mov", [*H264, "-c:a", "pcm_s16be"]), ("MOV, 24-bit PCM", "a.mov", [*H264, "-c:a", "pcm_s24le"]),
        ("MOV, ADPCM", "a.mov", [*VIDEO, "-c:a", "adpcm_ima_qt"]), ("MOV, ALAC", "a.mov", [*VIDEO, "-c:a", "alac"]),
        ("MKV, AAC", "a.mkv", [*H264, *aac]), ("MKV, FLAC", "a.mkv", [*VIDEO, "-c:a", "flac"]),
        ("MKV, DTS", "a.mkv", [*VIDEO, "-c:a", "dca", "-strict", "-2", "-ac", "2"]),
        ("MKV, PCM", "a.mkv", [*VIDEO, "-c:a", "pcm_f32le"]), ("MKV, MP3", "a.mkv", [*VIDEO, *mp3]),
        ("WebM, Opus", "a.webm", opus), ("WebM, Vorbis", "a.webm", ["-c:a", "libvorbis"]),
        ("WebM of a browser's recorder, no duration", "a.webm", [*opus, "-live", "1"]),
        ("AVI, PCM", "a.avi", [*VIDEO, "-c:a", "pcm_s16le"]), ("AVI, MP3", "a.avi", [*VIDEO, *mp3]),
        ("AVI, 8-bit 8 kHz", "a.avi", [*VIDEO, "-c:a", "pcm_u8", "-ar", "8000"]), ("FLV, AAC", "a.flv", [*H264, *aac]),
        ("FLV, MP3", "a.flv", ["-map", "1:v", "-map", "0:a", "-c:v", "flv", *mp3, "-ar", "44100"]),
        ("MPEG-TS, AAC", "a.ts", [*H264, *aac]), ("MPEG-TS, MP2", "a.ts", [*VIDEO, "-c:a", "mp2"]),
        ("MPEG-TS, AC-3", "a.ts", [*H264, "-c:a", "ac3"]),
        ("M2TS (camcorder)", "a.m2ts", [*H264, "-c:a", "ac3", "-mpegts_m2ts_mode", "1"]),
        ("MPEG-PS", "a.mpg", ["-map", "1:v", "-map", "0:a", "-c:v", "mpeg2video", "-c:a", "mp2"]),
        ("VOB, AC-3", "a.vob", ["-map", "1:v", "-map", "0:a", "-c:v", "mpeg2video", "-c:a", "ac3"]),
        ("MXF", "a.mxf", ["-map", "1:v", "-map", "0:a", "-c:v", "mpeg2video", "-c:a", "pcm_s16le"]),
        ("WMV", "a.wmv", ["-map", "1:v", "-map", "0:a", "-c:v", "wmv2", "-c:a", "wmav2", "-b:a", "64k"]),
        ("3GP", "a.3gp", [*VIDEO, *aac]), ("NUT", "a.nut", [*VIDEO, "-c:a", "pcm_s16le"]),
        ("Ogg with Theora", "a.ogv", ["-map", "1:v", "-map", "0:a", "-c:v", "libtheora", "-c:a", "libvorbis"]),
    ):  # fmt: skip
        yield Kind(name, file, options, against="timed" if "-map" in options else "itself")
    late = "asetpts=PTS+0.7/TB"
    for name in ("mp4", "mkv", "ts"):
        yield Kind(
            f"{name.upper()}, sound begins 0.7 s late", f"a.{name}", [*H264, *aac], against="timed", filters=late
        )
    holes = "aselect='not(between(t,0.9,1.4)+between(t,2,2.3))'"
    for name in ("mp4", "mkv"):
        yield Kind(f"{name.upper()}, two holes", f"a.{name}", [*H264, *aac], against="timed", filters=holes)
    yield Kind("WebM, two holes", "a.webm", opus, against="clean", filters=holes)
    yield Kind("MP4 cut at 1 s without encoding", "a.mp4", ["-ss", "1", *aac, "-f", "mp4"], against="itself")
    yield Kind("MKV cut off at 60 %", "a.mkv", [*aac], cut(0.6))
    yield Kind("MPEG-TS, 3 kB of noise", "a.ts", [*aac], overwritten(3000))
    yield Kind("film without sound", "a.mp4", ["-map", "1:v", "-c:v", "mpeg4"], refused="has no sound")


def extremes() -> Iterator[Kind]:
    """Very short, quiet and loud sounds, and what is none."""
    for samples in (1, 3, 640, 1025):
        yield Kind(f"{samples} samples", "a.wav", [], filters=f"atrim=end_sample={samples}")
    yield Kind("60 dB quieter, 24 bit", "a.wav", ["-c:a", "pcm_s24le"], filters="volume=-60dB")
    yield Kind("10 dB above full scale, float", "a.wav", ["-c:a", "pcm_f32le"], filters="volume=20dB")
    yield Kind("a constant of 0.2 added", "a.wav", ["-c:a", "pcm_f32le"], filters="dcshift=0.2")
    yield Kind("NaN samples", "a.wav", ["-c:a", "pcm_f32le"], _not_a_number, refused="NaN or infinite")
    yield Kind("empty file", "a.mp3", [], lambda data: b"", refused="is empty")
    yield Kind("web page", "a.mp3", [], lambda data: b"<!doctype html><title>404</title>", refused="a text file")
    yield Kind("playlist", "a.m3u8", ["-f", "wav"], lambda data: b"#EXTM3U\n#EXTINF:3,\nb.wav\n", refused="a text file")
    yield Kind("cut off at 3 %", "a.mp3", ["-c:a", "libmp3lame"], cut(0.03), refused="only")


def _not_a_number(data: bytes) -> bytes:
    at = data.index(b"data") + 40_008
    return data[:at] + struct.pack("<f", float("nan")) * 8 + data[at + 32 :]


GROUPS: dict[str, Callable[[], Iterator[Kind]]] = {
    "Uncompressed": waves, "Compressed": compressed, "Channels": layouts, "Films and containers": videos,
    "Extremes": extremes,
}  # fmt: skip
