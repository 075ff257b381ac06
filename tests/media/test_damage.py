"""What people bring: damaged, joined, cut off, full of holes, with several tracks. Read on, and said what is missing.

The files in `inputs` were made with ffmpeg and sox after public reports; each holds about 3 s of speech.
"""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from livetalk_core.errors import InputError
from livetalk_core.media.audio import open_audio
from livetalk_core.media.channels import left_right
from livetalk_core.shapes import frames_of_samples

INPUTS = Path(__file__).with_name("inputs")
RATE = 48_000


def silent(source, start: float, stop: float) -> bool:
    """Whether these seconds hold nothing but zeros."""
    first, last = round(start * source.sample_rate), round(stop * source.sample_rate)
    return not source.read(first, last - first, source.sample_rate, mono=False).any()


@pytest.mark.parametrize(
    ("name", "frames", "note"),
    [
        ("c71.m4a", 76, ""),
        ("c71.opus", 75, ""),
        ("joined_id3.mp3", 151, ""),
        ("junk_mid.mp3", 76, "0.03 s at 00:00:01 unreadable"),
        ("raw_junk.aac", 77, "s at 00:00:01 unreadable"),
        ("frag_trunc.m4a", 51, "cut off at 00:00:02"),
        ("pages.ogg", 75, ""),
        ("w_gsm.wav", 75, ""),
        ("gap.mp4", 76, "0.58 s at 00:00:01 without sound"),
        ("late07.mp4", 93, ""),
        ("two_default2.mp4", 76, "track 2 of 2 sound tracks is used"),
        ("apac_first.mov", 76, "track 2 of 2 sound tracks is used; track 1 has an unknown coding"),
    ],
)
def test_public_reports(name, frames, note):
    source = open_audio(INPUTS / name)
    assert frames_of_samples(source.samples, source.sample_rate) == frames
    assert len(source.notes) == bool(note)
    assert not note or (source.notes[0].startswith(f"sound of {name}: ") and note in source.notes[0])
    assert np.abs(source.read(0, source.samples, source.sample_rate, mono=False)).max() > 0.05


LAYOUTS = [
    "mono", "stereo", "2.1", "3.0", "quad", "5.0", "5.1", "6.0", "6.1", "7.0", "7.1", "7.1(wide)", "octagonal", "7.1.2",
    "7.1.4", "hexadecagonal", "22.2",
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.wv", "wavpack")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_channel_layout(tmp_path, media, name, codec, layout):
    count = av.AudioLayout(layout).nb_channels
    sound = media.speech(0.5, RATE, count)
    path = media.write_sound(tmp_path / name, sound, RATE, codec, layout)
    source = open_audio(path)
    assert source.channels == count
    found = source.read(0, sound.shape[1], RATE, mono=True)
    np.testing.assert_allclose(found, sound.mean(axis=0, keepdims=True), atol=5e-3)  # WavPack: of 8 bits
    mixed = source.read(0, sound.shape[1], RATE, mono=False)
    assert mixed.shape[0] == min(count, 2) and 0.03 < np.abs(mixed).max() < 1.001


@pytest.mark.parametrize("channels", [*range(1, 25)])
def test_any_number_of_unnamed_channels(tmp_path, media, channels):
    sound = media.speech(0.1, RATE, channels)
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_bytes(np.ascontiguousarray(sound.T), RATE))
    found = open_audio(path).read(0, 4800, RATE, mono=True)
    np.testing.assert_allclose(found, sound.mean(axis=0, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.opus", "libopus"), ("a.ogg", "libvorbis")])
def test_eight_channels_compressed(tmp_path, media, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = media.write_sound(tmp_path / name, media.speech(1, RATE, 8), RATE, codec, "7.1")
    source = open_audio(path)
    assert source.channels == 8 and abs(source.seconds - 1) < 0.05
    assert source.read(0, RATE, RATE, mono=False).any()


def test_surround_weights():
    """ITU-R BS.775: centre and surround 3 dB down, what is both 6 dB, the bass channel out."""
    weights = {name: left_right(name) for name in ("FL", "FRC", "FC", "SL", "BR", "BC", "TFL", "LFE2", "WR")}
    half = pytest.approx(0.5)
    assert weights["FL"] == (1, 0) and weights["FRC"] == weights["WR"] == (0, 1) and weights["LFE2"] == (0, 0)
    assert weights["FC"] == pytest.approx((0.5**0.5,) * 2) and weights["BC"] == (half, half)
    assert weights["SL"][0] ** 2 == weights["TFL"][0] ** 2 == weights["BR"][1] ** 2 == half


def test_nist_sphere(tmp_path, media):
    """The speech corpora's own format."""
    sound = media.speech(1, 16_000)
    fields = "sample_count -i 16000\nsample_rate -i 16000\nchannel_count -i 1\nsample_n_bytes -i 2\n"
    fields += "sample_byte_format -s2 01\nsample_sig_bits -i 16\nsample_coding -s3 pcm\nend_head\n"
    path = tmp_path / "a.sph"
    samples = (sound * 32767).astype("<i2").tobytes()
    path.write_bytes(f"NIST_1A\n   1024\n{fields}".encode().ljust(1024) + samples)
    np.testing.assert_allclose(open_audio(path).read(0, 16_000, 16_000, mono=True), sound, atol=1e-4)


@pytest.mark.parametrize(("name", "codec"), [("a.mxf", "pcm_s16le"), ("a.nut", "flac")])
def test_containers_of_cameras_and_archives(tmp_path, media, name, codec):
    sound = media.speech(2, RATE)
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        picture, stream = container.add_stream("mpeg2video", rate=25), container.add_stream(codec, rate=RATE)
        picture.width = picture.height = 64
        stream.codec_context.layout = "mono"
        for index in range(50):
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            image.pts = index
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
        for start in range(0, sound.shape[1], 1920):
            block = np.ascontiguousarray((sound[:, start : start + 1920] * 32767).astype(np.int16))
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_audio(path)
    np.testing.assert_allclose(source.read(0, RATE, RATE, mono=True), sound[:, :RATE], atol=1e-4)


# Cut off


def _cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.flac", "flac", {"frame": 4608}),
        ("a.m4a", "aac", {"movflags": "faststart"}),
        ("a.mp3", "libmp3lame", {"frame": 1152}),
        ("a.mkv", "aac", {}),
        ("a.webm", "libopus", {"frame": 960}),
    ],
)
def test_a_cut_off_end_becomes_silence_where_the_length_is_known(tmp_path, media, name, codec, options):
    path = media.write_sound(tmp_path / name, media.speech(3, RATE), RATE, codec, "mono", **options)
    whole = open_audio(path)
    source = open_audio(_cut(path, 0.6))
    assert source.seconds == pytest.approx(whole.seconds, abs=0.06)
    assert len(source.notes) == 1 and "s at 00:00:0" in source.notes[0] and "unreadable" in source.notes[0]
    assert not silent(source, 0, 1) and silent(source, 2.5, 2.9)


@pytest.mark.parametrize(("name", "codec"), [("a.opus", "libopus"), ("a.aac", "aac")])
def test_a_cut_off_end_is_said_where_no_length_is_known(tmp_path, media, name, codec):
    path = media.write_sound(tmp_path / name, media.speech(3.3, RATE), RATE, codec, "mono", frame=960)
    assert not open_audio(path).notes
    (note,) = open_audio(_cut(path, 0.6)).notes
    assert "cut off at 00:00:0" in note


@pytest.mark.parametrize(
    ("name", "codec", "said"),
    [
        ("a.mp3", "libmp3lame", "s at 00:00:01 unreadable"), ("a.aac", "aac", "cut off at 00:00:01"),
        ("a.ac3", "ac3", "cut off at 00:00:01"), ("a.ts", "aac", "cut off at 00:00:01"),
    ],
)  # fmt: skip
def test_zeros_in_place_of_the_end_are_a_cut_off_end(tmp_path, media, name, codec, said):
    """A download that took its room and stopped."""
    frame = {"libmp3lame": 1152, "ac3": 1536}.get(codec, 1024)
    path = media.write_sound(tmp_path / name, media.speech(3, RATE), RATE, codec, "mono", frame=frame)
    data = path.read_bytes()
    assert not open_audio(path).notes
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    (note,) = open_audio(path).notes
    assert said in note
    path.write_bytes(data + bytes(9999))
    assert bool(open_audio(path).notes) == (name != "a.mp3")  # whose header counts its bytes


def test_a_cut_off_wav(tmp_path, media):
    sound = media.speech(3, RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_bytes(sound.T, RATE))
    source = open_audio(_cut(path, 0.5))
    assert source.samples == 3 * RATE and silent(source, 1.6, 3)
    assert "1.50 s at 00:00:01 unreadable; silence in their place" in source.notes[0]


@pytest.mark.parametrize(
    ("name", "codec", "options"), [("a.flac", "flac", {"frame": 4608}), ("a.mp3", "libmp3lame", {})]
)
def test_too_little_left(tmp_path, media, name, codec, options):
    path = media.write_sound(tmp_path / name, media.speech(12, RATE), RATE, codec, "mono", **{"frame": 1152, **options})
    with pytest.raises(InputError, match=r"of 12\.\d s only [01]\.\d s can be read"):
        open_audio(_cut(path, 0.09))


def test_no_index(tmp_path, media):
    """An MP4 whose index was at its end."""
    path = media.write_sound(tmp_path / "a.m4a", media.speech(3, RATE), RATE, "aac", "mono")
    with pytest.raises(InputError, match="damaged, cut off"):
        open_audio(_cut(path, 0.5))


# Damaged inside


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac")])
def test_overwritten_bytes_cost_their_own_time_alone(tmp_path, media, name, codec):
    sound = media.speech(4, RATE)
    path = media.write_sound(tmp_path / name, sound, RATE, codec, "mono", frame=1152 if codec != "aac" else 1024)
    whole = open_audio(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 700] = np.random.default_rng(1).bytes(700)
    damaged = path.with_name(f"damaged.{name}")
    damaged.write_bytes(data)
    source = open_audio(damaged)
    assert abs(source.samples - whole.samples) <= 1152
    assert "unreadable" in source.notes[0]
    later = [each.read(3 * RATE, RATE // 2, RATE, mono=True)[0] for each in (whole, source)]
    assert _lag(*later) == 0


def _lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which b is late."""
    size = 2 * len(a)
    correlation = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    lag = int(np.argmax(correlation))
    return lag if lag < len(a) else lag - size


def test_joined_mp3_with_tags(tmp_path, media):
    path = media.write_sound(tmp_path / "a.mp3", media.speech(2, RATE), RATE, "libmp3lame", "mono", frame=1152)
    once, data = open_audio(path), path.read_bytes()
    assert data.startswith(b"ID3")
    path.write_bytes(data * 3)
    assert open_audio(path).seconds == pytest.approx(3 * once.seconds, abs=0.2)


@pytest.mark.parametrize(
    ("name", "codec", "frame"), [("a.mp3", "libmp3lame", 1152), ("a.ac3", "ac3", 1536), ("a.aac", "aac", 1024)]
)
@pytest.mark.parametrize("layouts", [("stereo", "mono"), ("mono", "stereo"), ("5.1", "stereo")])
def test_channels_alone_may_change(tmp_path, media, name, codec, frame, layouts):
    """Television does so between two programmes; fewer channels than before were read beyond their end: a crash."""
    if codec == "libmp3lame" and "5.1" in layouts:
        pytest.skip("MP3 has two channels at most")
    parts = []
    for number, layout in enumerate(layouts):
        sound = media.speech(2, RATE, {"mono": 1, "stereo": 2, "5.1": 6}[layout])
        parts.append(
            media.write_sound(tmp_path / f"{number}.{name[2:]}", sound, RATE, codec, layout, frame=frame).read_bytes()
        )
    (tmp_path / name).write_bytes(b"".join(parts))
    source = open_audio(tmp_path / name)
    assert source.seconds == pytest.approx(4, abs=0.25)
    assert all(np.abs(source.read(second * RATE, RATE, RATE, mono=True)).max() > 0.05 for second in (0, 1, 2, 3))


def test_sample_rate_and_channels_may_change(tmp_path, media):
    parts = [
        media.write_sound(tmp_path / "a.mp3", media.speech(2, rate, channels), rate, "libmp3lame", layout, frame=1152)
        .read_bytes()
        for rate, channels, layout in ((44_100, 1, "mono"), (48_000, 2, "stereo"))
    ]  # fmt: skip
    path = tmp_path / "b.mp3"
    path.write_bytes(b"".join(parts))
    source = open_audio(path)
    assert (source.sample_rate, source.channels) == (44_100, 1) and source.seconds == pytest.approx(4, abs=0.2)
    assert np.abs(source.read(3 * 44_100, 22_050, 44_100, mono=True)).max() > 0.05


def test_pauses_of_amr_keep_their_length(tmp_path, media):
    """Telephones send a few bytes for a pause, and FFmpeg has no decoder for them."""
    if "libopencore_amrnb" not in av.codecs_available:
        pytest.skip("this PyAV cannot write AMR")
    path = media.write_sound(tmp_path / "a.amr", media.speech(3, 8000), 8000, "libopencore_amrnb", "mono", frame=160)
    data = path.read_bytes()
    frames = [data[at : at + 13] for at in range(6, len(data), 13)]  # of 4.75 kbit/s
    assert len(data) == 6 + 13 * len(frames) and all(frame[0] >> 3 & 15 == 0 for frame in frames)
    pause = bytes([8 << 3 | 4, 0, 0, 0, 0, 0])
    for silent_frames in (range(50, 75), range(len(frames) - 25, len(frames))):
        parts = [pause if number in silent_frames else frame for number, frame in enumerate(frames)]
        path.write_bytes(data[:6] + b"".join(parts))
        source = open_audio(path)
        assert source.samples == 160 * len(frames)
        assert silent(source, silent_frames[1] / 50, silent_frames[-1] / 50)
        assert "0.50 s at 00:00:0" in source.notes[0] and len(source.notes) == 1


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.aiff", "pcm_s16be"), ("a.m4a", "aac")])
def test_tags_before_any_recording_are_passed_over(tmp_path, media, name, codec):
    """Two ID3 tags, the second repeated at its end; FFmpeg looks behind them in MP3 and a few others alone."""
    path = media.write_sound(tmp_path / name, media.speech(1, RATE), RATE, codec, "mono")
    plain, data = open_audio(path), path.read_bytes()
    tag = b"\4\0%c\0\0\1\x02" + bytes(130)
    path.write_bytes(b"ID3" + tag % 0 + b"ID3" + tag % 16 + b"3DI" + bytes(7) + data)
    assert open_audio(path).fingerprint == plain.fingerprint
    path.write_bytes(b"ID3" + tag % 0)
    with pytest.raises(InputError, match="damaged"):
        open_audio(path)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\xef\xbb\xbf" + "你好\r\n".encode() * 40, "a text file that begins with '你好'"),
        (b"\n\n <html>\n", "a text file that begins with '<html>'"),
        (b"#!AMR\n" + b"\xff" * 99, "a damaged AMR"), (b"\2#!SILK_V3" + b"\xff" * 99, "SILK"),
        (b"NIST_1A\n   1024\n" + b" " * 1010, "NIST SPHERE"), (b"abc\xff\xfe\n" * 50, "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_recording_is_named(tmp_path, start, what):
    (tmp_path / "a.wav").write_bytes(start)
    with pytest.raises(InputError, match=rf"a\.wav is {what}"):
        open_audio(tmp_path / "a.wav")


def test_a_big_endian_wav_is_refused_by_name(tmp_path, media):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFX" + media.wav_bytes(media.speech(1, RATE).T, RATE)[4:])
    with pytest.raises(InputError, match="big-endian"):
        open_audio(path)


# Pages of Ogg


def _without_page(data: bytes, number: int) -> bytes:
    pages = data.split(b"OggS")[1:]
    return b"".join(b"OggS" + page for page in pages[:number] + pages[number + 1 :])


def test_a_lost_page_costs_its_own_time_alone(tmp_path):
    """The first one with sound, too. Vorbis gives some frames beside a page's border a time that is not theirs."""
    undamaged, path = open_audio(INPUTS / "pages.ogg"), tmp_path / "a.ogg"
    data = (INPUTS / "pages.ogg").read_bytes()
    for number in range(2, 13):
        path.write_bytes(_without_page(data, number))
        source = open_audio(path)
        assert abs(source.samples - undamaged.samples) <= 128, number
        assert "s at 00:00:0" in source.notes[0] and "unreadable" in source.notes[0]
        later = [each.read(round(2.4 * RATE), RATE // 2, RATE, mono=True)[0] for each in (undamaged, source)]
        assert _lag(*later) == 0, number


def test_an_ogg_cut_out_of_a_stream_begins_at_its_beginning(tmp_path, media):
    path = tmp_path / "a.opus"
    media.write_sound(path, media.speech(12, RATE), RATE, "libopus", "mono", frame=960, page_duration="500000")
    data = path.read_bytes()
    for _ in range(15):
        data = _without_page(data, 2)
    path.write_bytes(data)
    source = open_audio(path)
    assert source.seconds == pytest.approx(4.5, abs=0.2) and not silent(source, 0, 0.5)


def test_an_ogg_that_the_demuxer_gives_up_keeps_its_length(tmp_path):
    """A page's head that claims more than the file holds."""
    data, path = bytearray((INPUTS / "pages.ogg").read_bytes()), tmp_path / "a.ogg"
    page = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"][6]
    data[page + 26 : page + 290] = b"\xff" * 264
    path.write_bytes(data)
    source = open_audio(path)
    assert source.seconds == pytest.approx(3, abs=0.2) and "unreadable" in source.notes[0]


# WAV headers


@pytest.mark.parametrize("claim", [2_000_000_000, 0x7FFF_FFBF, 0x7FFF_FFFF, 0xFFFF_FFFF - 36, 0, 2**30, 500_000_000])
def test_wav_sizes_of_streaming_servers(tmp_path, media, claim):
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_bytes(media.speech(3, RATE).T, RATE, claim=claim))
    source = open_audio(path)
    assert source.samples == 3 * RATE and not source.notes


@pytest.mark.parametrize("claim", [None, 0xFFFF_FFFF - 36, 0])
def test_joined_wavs_are_read_whole(tmp_path, media, claim):
    sounds = [media.speech(seconds, RATE) for seconds in (1, 0.7, 1.3)]
    path = tmp_path / "a.wav"
    path.write_bytes(b"".join(media.wav_bytes(np.ascontiguousarray(each.T), RATE, claim=claim) for each in sounds))
    source = open_audio(path)
    whole = np.concatenate(sounds, axis=1)
    assert source.samples == whole.shape[1]
    np.testing.assert_array_equal(source.read(0, source.samples, RATE, mono=False), whole)
    assert source.notes == ("sound of a.wav: 3 recordings one behind the other, read as one",)


def test_sound_behind_the_data_that_a_header_claims(tmp_path, media):
    sound = media.speech(3, RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_bytes(np.ascontiguousarray(sound.T), RATE, claim=RATE * 4))
    np.testing.assert_array_equal(open_audio(path).read(0, 3 * RATE, RATE, mono=False), sound)


def test_chunks_behind_the_data_are_no_sound(tmp_path, media):
    path = tmp_path / "a.wav"
    tail = (
        b"LIST" + (20_000).to_bytes(4, "little") + b"\x40" * 20_000 + b"C2PA" + (900).to_bytes(4, "little") + b"A" * 300
    )
    path.write_bytes(media.wav_bytes(media.speech(1, RATE).T, RATE) + tail)
    source = open_audio(path)
    assert source.samples == RATE and not source.notes


# Time


def _timed(path: Path, sound: np.ndarray, holes: list[tuple[float, float]], late: float = 0.0) -> Path:
    """An MKV whose sound lacks the packets of some seconds, and begins later than its picture."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 64
        stream = container.add_stream("pcm_s16le", rate=RATE)
        stream.codec_context.layout = "mono"
        for index in range(round((sound.shape[1] / RATE + late) * 25)):
            image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            image.pts = index
            container.mux(picture.encode(image))
        for start in range(0, sound.shape[1], 960):
            if any(first <= start / RATE < last for first, last in holes):
                continue
            block = (sound[:, start : start + 960] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start + round(late * RATE)
            container.mux(stream.encode(frame))
    return path


def test_holes_become_silence(tmp_path, media):
    sound = media.speech(6, RATE)
    holes = [(1, 1.5), (2, 2.1), (4, 4.8)]
    source = open_audio(_timed(tmp_path / "a.mkv", sound, holes))
    expected = sound.copy()
    for first, last in holes:
        expected[:, round(first * RATE) : round(last * RATE)] = 0
    np.testing.assert_allclose(source.read(0, 6 * RATE, RATE, mono=True), expected, atol=1e-4)
    assert "1.40 s in 3 places, the first at 00:00:01, without sound" in source.notes[0]


def test_a_late_start_is_silence_before_the_sound(tmp_path, media):
    sound = media.speech(2, RATE)
    source = open_audio(_timed(tmp_path / "a.mkv", sound, [], late=0.7))
    assert source.samples == round(2.7 * RATE) and not source.notes
    np.testing.assert_allclose(source.read(round(0.7 * RATE), 2 * RATE, RATE, mono=True), sound, atol=1e-4)


def test_overlaps_are_trimmed_and_far_jumps_are_not_followed(tmp_path, media):
    def write(path, starts):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=RATE)
            stream.codec_context.layout = "mono"
            for number, start in enumerate(starts):
                block = np.full((1, 4800), 100 * (number + 1), np.int16)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(stream.encode(frame))
        return open_audio(path)

    overlapping = write(tmp_path / "a.mov", [0, 4800, 9600])
    assert overlapping.samples == 14_400
    source = write(tmp_path / "b.mkv", [0, 4800, 9600 - 2400 * 1, 12_000])
    assert source.samples == 16_800


# Phase


def test_channels_that_cancel_each_other(tmp_path, media):
    sound = media.speech(3, RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(media.wav_bytes(np.concatenate([sound, -sound]).T.copy(), RATE))
    source = open_audio(path)
    np.testing.assert_array_equal(source.read(0, 3 * RATE, RATE, mono=True), sound)
    np.testing.assert_array_equal(source.read(0, 3 * RATE, RATE, mono=False), np.concatenate([sound, -sound]))
    assert "cancel each other (out of phase) for 3.0 s" in source.notes[0]


def test_ordinary_stereo_is_the_mean(tmp_path, media):
    sound = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    for channels in (sound, np.stack([sound[0], np.zeros(RATE, np.float32)])):
        path = tmp_path / "a.wav"
        path.write_bytes(media.wav_bytes(channels.T.copy(), RATE))
        source = open_audio(path)
        found = source.read(0, RATE, RATE, mono=True)
        np.testing.assert_allclose(found, channels.mean(axis=0, keepdims=True), atol=1e-7)
        assert not source.notes


# One pass


def test_everything_is_known_after_one_pass(tmp_path, media, monkeypatch):
    from livetalk_core.media import audio

    path = media.write_sound(tmp_path / "a.mp3", media.speech(5, RATE, 2), RATE, "libmp3lame", "stereo", frame=1152)
    passes, shares = [], []
    decoded = audio.decoded
    monkeypatch.setattr(audio, "decoded", lambda *given: passes.append(1) or decoded(*given))
    source = open_audio(path, shares.append)
    first = len(passes)
    source.statistics(source.samples * 16_000 // RATE + 7000)
    twin = source.reader()
    assert len(passes) == first == 2  # the first frame, then the pass
    assert twin.fingerprint == source.fingerprint and twin.statistics(90_000) == source.statistics(90_000)
    np.testing.assert_array_equal(twin.read(0, 9000, RATE, mono=False), source.read(0, 9000, RATE, mono=False))
    assert shares == sorted(shares) and len(shares) >= 4 and shares[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_recording_that_goes_away_is_named(tmp_path, media, ending):
    codec = {"wav": "pcm_s16le"}.get(ending, ending)
    path = media.write_sound(tmp_path / f"a.{ending}", media.speech(1, RATE), RATE, codec, "mono")
    source = open_audio(path)
    path.unlink()
    with pytest.raises(InputError, match=r"a.* cannot be read .*it has to stay where it is"):
        source.read(0, 100, RATE, mono=True)


def _other(path, media):
    media.write_sound(path, media.speech(3, RATE)[:, ::-1], RATE, "pcm_s16le", "mono")


@pytest.mark.parametrize(
    "change",
    [
        lambda path, media: os.truncate(path, 2000),
        lambda path, media: _other(path, media),
        lambda path, media: path.write_bytes(path.read_bytes() + bytes(99_999)),
        lambda path, media: (_other(path.with_name("b.wav"), media), path.with_name("b.wav").replace(path)),
    ],
    ids=["cut", "written over", "written on", "replaced"],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_recording_that_changes_while_it_is_read(tmp_path, media, change, begun):
    """No video may hold parts of two."""
    path = media.write_sound(tmp_path / "a.wav", media.speech(3, RATE), RATE, "pcm_s16le", "mono")
    source = open_audio(path)
    if begun:
        source.read(0, 100, RATE, mono=True)
    change(path, media)
    with pytest.raises(InputError, match=r"a\.wav changes while it is read"):
        source.read(0, 3 * RATE, RATE, mono=True)


def test_a_recording_with_another_date_is_the_same(tmp_path, media):
    path = media.write_sound(tmp_path / "a.wav", media.speech(2, RATE), RATE, "pcm_s16le", "mono")
    source, reader = open_audio(path), open_audio(path).reader()
    before = source.read(0, 2 * RATE, RATE, mono=True)
    os.utime(path, (0, 0))
    assert np.array_equal(reader.read(0, 2 * RATE, RATE, mono=True), before)


def test_a_recording_that_is_still_written_is_refused(tmp_path, media):
    path = media.write_sound(tmp_path / "a.wav", media.speech(3, RATE), RATE, "pcm_s16le", "mono")
    with pytest.raises(InputError, match="wait until it is written"):
        open_audio(path, progress=lambda _: path.write_bytes(path.read_bytes() + bytes(9)) and None)
