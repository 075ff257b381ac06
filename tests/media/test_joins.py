"""Recordings joined in one file with other clocks, channels or rates, and those whose clock does not begin at 0."""

import struct
import tracemalloc
from itertools import pairwise

import av
import numpy as np
import pytest

from livetalk_core.errors import InputError
from livetalk_core.media import ogg, wav
from livetalk_core.media.audio import open_audio
from livetalk_core.media.joined import recordings
from livetalk_core.media.ogg import Link, links
from livetalk_core.media.wav import MOST_BEHIND, MOST_EMPTY, Part, wav_parts

RATE = 48_000


def joined(folder, media, *recordings):
    """Ogg files of 2 s each, one behind the other: (codec, rate, channels)."""
    parts = []
    for number, (codec, rate, channels) in enumerate(recordings):
        layout = "mono" if channels == 1 else "stereo"
        sound = media.speech(2, rate, channels) * (number + 1)
        path = media.write_sound(
            folder / f"{number}.ogg", sound, rate, codec, layout, frame=960, serial_offset=str(number)
        )
        parts.append(path.read_bytes())
    path = folder / "joined.ogg"
    path.write_bytes(b"".join(parts))
    return path, np.cumsum([0, *map(len, parts)]).tolist()


@pytest.mark.parametrize(
    "recordings",
    [
        (("libopus", 48_000, 2), ("libopus", 48_000, 1)),
        (("libopus", 48_000, 1), ("libopus", 48_000, 2)),
        (("vorbis", 44_100, 2), ("vorbis", 22_050, 2)),
        (("libopus", 48_000, 2), ("vorbis", 44_100, 2), ("libopus", 48_000, 1)),
    ],
)
def test_joined_streams_of_other_channels_rates_and_codecs_are_all_read(tmp_path, media, recordings):
    path, edges = joined(tmp_path, media, *recordings)
    assert links(path) == [Link(*pair) for pair in pairwise(edges)]
    source = open_audio(path)
    assert source.seconds == pytest.approx(2 * len(recordings), abs=0.15)
    assert (source.sample_rate, source.channels) == recordings[0][1:]
    assert [note for note in source.notes if "unreadable" in note or "cut off" in note] == []
    assert f"{len(recordings)} recordings one behind the other" in source.notes[0]
    levels = [
        np.abs(source.read(round((2 * n + 0.2) * RATE), RATE, RATE, mono=True)).max() for n in range(len(recordings))
    ]
    assert all(later > 1.2 * earlier for earlier, later in pairwise(levels))


def test_joined_streams_that_are_alike_are_left_to_the_decoder(tmp_path, media):
    path, _ = joined(tmp_path, media, *[("libopus", 48_000, 1)] * 2)
    assert links(path) == []
    source = open_audio(path)
    assert source.seconds == pytest.approx(4, abs=0.1) and not source.notes


def test_an_end_that_is_missing_is_the_last_recordings(tmp_path, media):
    path, edges = joined(tmp_path, media, ("libopus", 48_000, 2), ("libopus", 48_000, 1))
    data = path.read_bytes()
    path.write_bytes(data[: (edges[1] + edges[2]) // 2])
    source = open_audio(path)
    assert 2 < source.seconds < 4 and "cut off" in source.notes[-1]
    assert not ogg.ends(path, Link(*edges[:2])).cut and ogg.ends(path, Link(edges[1], len(path.read_bytes()))).cut


def test_links_of_other_files(tmp_path):
    path = tmp_path / "a"
    for content in (b"OggS", b"OggS\0\2" + bytes(10), b"RIFF", b"OggS\0\2" + bytes(20) + b"\xff" + b"OggS\0\2"):
        path.write_bytes(content)
        assert len(links(path)) in (0, 2)


def test_what_opus_leaves_out_is_not_missed(tmp_path, media):
    path = media.write_sound(tmp_path / "a.opus", media.speech(3, RATE), RATE, "libopus", "mono", frame=960)
    data = bytearray(path.read_bytes())
    at = data.index(b"OpusHead") + 10
    before = ogg.ends(path).length
    skipped = struct.unpack_from("<H", data, at)[0]
    data[at : at + 2] = struct.pack("<H", 24_000)
    path.write_bytes(data)
    assert ogg.ends(path).length == before + skipped - 24_000
    assert ogg.ends(path).skipped == 24_000


@pytest.mark.parametrize("start", [0.0, 10.0, 3600.0])
@pytest.mark.parametrize(("name", "codec", "picture"), [("a.mka", "libopus", False), ("a.mkv", "aac", True)])
def test_a_matroska_file_may_begin_at_any_time(tmp_path, media, name, codec, picture, start):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25) if picture else None
        stream = container.add_stream(codec, rate=RATE)
        stream.codec_context.layout = "mono"
        if video is not None:
            video.width = video.height = 64
            for index in range(75):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts = round(25 * start) + index
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        resampler = av.AudioResampler(
            stream.codec_context.format.name, "mono", RATE, frame_size=960 if codec == "libopus" else 1024
        )
        frame = av.AudioFrame.from_ndarray(media.speech(3, RATE), format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts += round(start * RATE)
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    source = open_audio(path)
    assert source.seconds == pytest.approx(3, abs=0.1) and not source.notes


def test_transport_streams_that_are_joined_have_clocks_of_their_own(tmp_path, media):
    parts = [
        media.write_sound(
            tmp_path / f"{offset}.ts",
            media.speech(2, RATE),
            RATE,
            "mp2",
            "mono",
            frame=1152,
            **{"output_ts_offset": offset} if int(offset) else {},
        ).read_bytes()
        for offset in ("0", "3600000000", "0")
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    source = open_audio(path)
    assert source.seconds == pytest.approx(6, abs=0.2) and not source.notes


@pytest.mark.parametrize("seconds", [1, 2])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.m4a", "aac", {}), ("a.m4a", "alac", {}), ("a.mov", "pcm_s16be", {}),
     ("a.m4a", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}),
     ("a.caf", "pcm_s16be", {}), ("a.flv", "aac", {}), ("a.aiff", "pcm_s16be", {}), ("a.au", "pcm_s16be", {}),
     ("a.mkv", "flac", {}), ("a.mkv", "aac", {"live": "1"}), ("a.webm", "libopus", {}), ("a.w64", "pcm_s16le", {}),
     ("a.wv", "wavpack", {}), ("a.tta", "tta", {}), ("a.avi", "pcm_s16le", {}), ("a.wma", "pcm_s16le", {})],
)  # fmt: skip
def test_recordings_whose_decoder_stops_behind_the_first_are_all_read(tmp_path, media, name, codec, options, seconds):
    rate, frame = (44_100, 1024) if name == "a.flv" else (RATE, 960 if codec == "libopus" else 1024)
    parts = []
    for number in range(3):
        sound = media.speech(seconds, rate) * (number + 1)
        path = media.write_sound(tmp_path / name, sound, rate, codec, "mono", frame=frame, **options)
        parts.append(path.read_bytes())
        assert recordings(path) == [] and open_audio(path).notes == ()
        path.unlink()
    path = tmp_path / name
    path.write_bytes(b"".join(parts))
    edges = np.cumsum([0, *map(len, parts)]).tolist()
    assert recordings(path) == [Part(*pair) for pair in pairwise(edges)]
    source = open_audio(path)
    assert source.notes == (f"sound of {name}: 3 recordings one behind the other, read as one",)
    assert source.seconds == pytest.approx(3 * seconds, abs=0.25)
    levels = [
        np.abs(source.read(round((source.seconds / 3 * n + 0.2) * RATE), RATE // 2, RATE, mono=True)).max()
        for n in range(3)
    ]
    assert all(later > 1.2 * earlier for earlier, later in pairwise(levels))


@pytest.mark.parametrize("seconds", [0.9, 3])
def test_a_clock_that_begins_anew_is_another_recordings(tmp_path, media, seconds):
    path = media.write_sound(tmp_path / "a.ts", media.speech(seconds, RATE), RATE, "mp2", "mono", frame=1152)
    path.write_bytes(path.read_bytes() * 2)
    assert open_audio(path).seconds == pytest.approx(2 * seconds, abs=0.1)


def test_a_recording_of_other_tracks_may_be_joined(tmp_path, media):
    plain = media.write_sound(tmp_path / "a.m4a", media.speech(2, RATE), RATE, "aac", "mono", frame=1024)
    path = tmp_path / "b.mp4"
    with av.open(str(path), "w") as container:
        video, stream = container.add_stream("mpeg4", rate=25), container.add_stream("aac", rate=RATE)
        video.width = video.height = 64
        stream.codec_context.layout = "mono"
        for index in range(50):
            picture = av.VideoFrame(64, 64, "yuv420p")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(media.speech(2, RATE), format="flt", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler("fltp", "mono", RATE, frame_size=1024).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    for one, other in ((plain, path), (path, plain)):
        joined_path = tmp_path / "joined.mp4"
        joined_path.write_bytes(one.read_bytes() + other.read_bytes())
        source = open_audio(joined_path)
        assert source.seconds == pytest.approx(4, abs=0.1)
        assert [note.partition(": ")[2] for note in source.notes] == ["2 recordings one behind the other, read as one"]


def test_what_follows_a_recording_and_is_none_is_left(tmp_path, media):
    path = media.write_sound(tmp_path / "a.m4a", media.speech(1, RATE), RATE, "aac", "mono", frame=1024)
    whole = path.read_bytes()
    for rest in (bytes(500), b"\0\0\0\x10freesome", b"ftyp" * 9, whole[4:20]):
        path.write_bytes(whole + rest)
        assert recordings(path) == [] and open_audio(path).notes == ()
    path.write_bytes(whole + whole[:300])
    (_, note) = open_audio(path).notes
    assert "cut off at 00:00:01" in note


def test_beginnings_within_a_page_are_none(tmp_path):
    path = tmp_path / "a.ogg"
    page = b"OggS\0\2" + bytes(20) + b"\xff" + b"\xff" * 255 + (b"OggS\0\2" * 10_838)[:65_025]
    path.write_bytes(page * 2 + page[:27])
    tracemalloc.start()
    assert links(path) == []  # two voices, and one that is cut off
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_wavs_within_each_others_chunks_take_no_time(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(
        wav, "_chunk", lambda head: looked.append(head) or (head[:4], int.from_bytes(head[4:], "little"))
    )
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16_000, 2, 16)
    inner = b"RIFF" + struct.pack("<I", 40) + b"WAVE" + form + b"data" + struct.pack("<I", 2) + b"\1\1"
    path = tmp_path / "a.wav"
    path.write_bytes(inner + (b"LIST" + struct.pack("<I", len(inner)) + inner) * 600 + bytes(20_000))
    assert len(wav_parts(path)) == 601
    assert len(looked) < 601 * (MOST_BEHIND + 3)  # not 601 / 2 for each


def test_zeros_behind_the_head_of_a_wav(tmp_path, media):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(8 * MOST_EMPTY + 64))
    with pytest.raises(InputError, match="holds zeros where its sound should begin"):
        open_audio(path)
    sound = media.write_sound(tmp_path / "b.wav", media.speech(1, RATE), RATE, "pcm_s16le", "mono").read_bytes()
    path.write_bytes(sound[:12] + bytes(4096) + sound[12:])  # as some recorders fill up
    assert open_audio(path).seconds == 1
    path.write_bytes(sound + b"RIFF\0\0\0\0WAVE" + bytes(8 * MOST_EMPTY + 64))
    assert open_audio(path).seconds == 1


@pytest.mark.parametrize(
    "begin", [b"\0\0\0\x08ftyp", b"caff\0\1", b"FLV\1", b"FORM", b".snd", b"riff", b"DSD ", b"RIFF\0\0\0\0AVI "]
)
def test_heads_that_end_early(tmp_path, begin):
    path = tmp_path / "a"
    for rest in (b"", bytes(1), bytes(40), b"\xff" * 40):
        path.write_bytes(begin + rest)
        assert recordings(path) == []
