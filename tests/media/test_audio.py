"""Any sound is read exactly, in any order, with flat memory; what is no sound is refused."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from livetalk_core.errors import InputError
from livetalk_core.media import audio
from livetalk_core.media.audio import TensorAudio, open_audio

ROOT = Path(__file__).resolve().parents[2]
RATE = 16_000


@pytest.fixture
def wav(tmp_path, media):
    """Writes [channels, samples] as a WAV file of float32, or of the given sample type."""

    def write(sound, rate=RATE, dtype="<f4", code=3, name="a.wav", **options):
        path = tmp_path / name
        path.write_bytes(media.wav_bytes(np.ascontiguousarray(sound.T.astype(dtype)), rate, code, **options))
        return path

    return write


def test_native_read_is_the_file(wav, media):
    sound = media.speech(1.5, 44_100, 2)
    source = open_audio(wav(sound, 44_100))
    assert (source.samples, source.sample_rate, source.channels) == (sound.shape[1], 44_100, 2)
    assert source.seconds == 1.5
    np.testing.assert_array_equal(source.read(0, sound.shape[1], 44_100, mono=False), sound)
    np.testing.assert_array_equal(source.read(100, 50, 44_100, mono=False), sound[:, 100:150])


@pytest.mark.parametrize(
    ("dtype", "code", "scale", "offset"),
    [("u1", 1, 128, 128), ("<i2", 1, 2**15, 0), ("<i4", 1, 2**31, 0), ("<f8", 3, 1, 0)],
)
def test_sample_formats(wav, dtype, code, scale, offset):
    sound = np.array([[-1, -0.5, 0, 0.25, 0.5]])
    source = open_audio(wav(sound * scale + offset, dtype=dtype, code=code))
    np.testing.assert_array_equal(source.read(0, 5, RATE, mono=True), sound.astype(np.float32))


def test_mono_is_the_mean_of_all_channels(wav, media):
    sound = np.stack([media.speech(0.5, RATE)[0], np.zeros(8000), np.ones(8000)]).astype(np.float32)
    source = open_audio(wav(sound))
    np.testing.assert_allclose(source.read(0, 8000, RATE, mono=True)[0], sound.mean(axis=0), atol=1e-7)


def test_surround_is_mixed_to_stereo(tmp_path, media):
    sound = np.zeros((6, 4800), np.float32)
    sound[0], sound[2], sound[3], sound[5] = 0.5, 0.25, 0.9, 0.125  # left, centre, bass, right surround
    path = media.write_sound(tmp_path / "a.wav", sound, 48_000, "pcm_f32le", "5.1")
    mixed = open_audio(path).read(0, 4800, 48_000, mono=False)
    expected = [0.5 + 0.25 * 0.5**0.5, (0.125 + 0.25) * 0.5**0.5]
    np.testing.assert_allclose(mixed, np.repeat(np.array(expected)[:, None], 4800, axis=1), atol=1e-6)


def test_a_surround_mix_is_lowered_where_it_would_clip(tmp_path, media):
    sound = np.full((6, 4800), 0.8, np.float32)
    sound[:, 2400:] = 0.1
    path = media.write_sound(tmp_path / "a.wav", sound, 48_000, "pcm_f32le", "5.1")
    mixed = open_audio(path).read(0, 4800, 48_000, mono=False)
    assert mixed[:, :2400] == pytest.approx(1, abs=1e-5) and mixed[:, 2400:] == pytest.approx(0.125, abs=1e-5)


def test_channels_without_names_go_to_both_sides(wav, media):
    sound = media.speech(0.2, RATE, 3)
    mixed = open_audio(wav(sound)).read(0, 3200, RATE, mono=False)
    np.testing.assert_allclose(mixed, np.repeat(sound.mean(axis=0, keepdims=True), 2, axis=0), atol=1e-7)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "error"),
    [
        ("a.flac", "flac", "stereo", 1e-3),
        ("a.mp3", "libmp3lame", "mono", 0.03),
        ("a.m4a", "aac", "stereo", 0.03),
        ("a.opus", "libopus", "mono", 0.03),
        ("a.ogg", "vorbis", "stereo", 0.03),
        ("a.mkv", "libopus", "mono", 0.03),
        ("a.aac", "aac", "mono", None),
    ],
)
def test_codecs(tmp_path, media, name, codec, layout, error):
    channels = 1 if layout == "mono" else 2
    sound = media.speech(2.3, 48_000, channels)
    options = {} if codec != "flac" else {"frame": 4608}
    source = open_audio(media.write_sound(tmp_path / name, sound, 48_000, codec, layout, **options))
    assert source.channels == channels and abs(source.seconds - 2.3) < 0.07
    found = source.read(0, sound.shape[1], 48_000, mono=False)
    if error is None:  # raw AAC has no place for its priming: it comes 1024 samples late
        found, sound, error = found[:, 1024:], sound[:, :-1024], 0.03
    assert np.sqrt(np.mean((found - sound) ** 2)) < error * np.abs(sound).max()


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_keeps_time_and_level(wav, rate):
    time = np.arange(rate) / rate
    sound = (0.5 * np.sin(2 * np.pi * 440 * time))[None]
    found = open_audio(wav(sound, rate)).read(0, RATE, RATE, mono=True)[0]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.abs(found - expected)[500:-500].max() < 2e-3


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 96_000])
@pytest.mark.parametrize("count", [1, 2, 37, 999])
def test_shortest_sounds(wav, rate, count):
    source = open_audio(wav(np.full((1, count), 0.5), rate))
    found = source.read(0, 4000, RATE, mono=True)[0]
    length = -(-count * RATE // rate)
    assert source.samples == count and found.shape == (4000,)
    assert np.abs(found[:length]).max() > 0.05 and not found[length:].any()


def test_zeros_beyond_the_end(wav, media):
    source = open_audio(wav(media.speech(0.1, RATE)))
    assert not source.read(1600, 500, RATE, mono=True).any()
    assert not source.read(10**9, 500, RATE, mono=True).any()
    assert source.read(1500, 0, RATE, mono=True).shape == (1, 0)


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory, media):
    """75 s of MP3 in two channels at 22,050 Hz: going back 30 s from its end must decode it again."""
    path = tmp_path_factory.mktemp("long") / "a.mp3"
    return media.write_sound(path, media.speech(75, 22_050, 2), 22_050, "libmp3lame", "stereo", frame=576)


@pytest.fixture(scope="module")
def whole(long_speech):
    """All of `long_speech` at 16 kHz, read at once."""
    return open_audio(long_speech).read(0, 75 * RATE, RATE, mono=True)


@given(reads=st.lists(st.tuples(st.integers(0, 76 * RATE), st.integers(1, 5 * RATE)), min_size=1, max_size=5))
def test_reads_do_not_depend_on_history(long_speech, whole, reads):
    source = _opened(long_speech)
    for start, count in reads:
        found = source.read(start, count, RATE, mono=True)
        expected = np.zeros((1, count), np.float32)
        there = whole[:, start : start + count]
        expected[:, : there.shape[1]] = there
        np.testing.assert_array_equal(found, expected)


_SOURCES = {}


def _opened(path):
    """One source for all examples, so that they are each other's history."""
    return _SOURCES.setdefault(path, open_audio(path))


def test_going_back_less_than_30_seconds_does_not_decode_again(long_speech, monkeypatch):
    source = open_audio(long_speech)
    opened = []
    track = audio.track
    monkeypatch.setattr(audio, "track", lambda path, *rest: opened.append(path) or track(path, *rest))
    source.read(40 * RATE, 24 * RATE, RATE, mono=True)
    source.read(35 * RATE, 24 * RATE, RATE, mono=True)
    assert len(opened) == 1
    source.read(0, RATE, RATE, mono=True)
    assert len(opened) == 2


# In a process of its own: other threads of this one would be counted, too.
PEAK = """
import sys, tracemalloc
from pathlib import Path
from livetalk_core.media.audio import open_audio
tracemalloc.start()
source = open_audio(Path(sys.argv[1]))
source.statistics(source.samples)
for start in range(0, source.samples, 256_000):
    source.read(max(0, start - 64_000), 384_000, 16_000, mono=True)
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_length(wav):
    sound = np.zeros((1, RATE * 60), np.float32)
    paths = [wav(sound, name="short.wav"), wav(np.tile(sound, 10), name="long.wav")]
    short, long = (
        int(subprocess.run([sys.executable, "-c", PEAK, str(path)], cwd=ROOT, check=True, capture_output=True).stdout)
        for path in paths
    )
    assert long < short + 500_000


@pytest.mark.parametrize("padding", [0, 1, 20_000])
def test_statistics_are_those_of_the_padded_array(wav, media, padding):
    source = open_audio(wav(media.speech(3.3, 44_100, 2), 44_100))
    total = -(-source.samples * RATE // 44_100) + padding
    sound = source.read(0, total, RATE, mono=True)[0].astype(np.float64)
    found = source.statistics(total)
    assert found.loudness == pytest.approx(pyloudnorm.Meter(RATE).integrated_loudness(sound), abs=1e-9)
    assert found.mean == pytest.approx(sound.mean(), abs=1e-12)
    assert found.variance == pytest.approx(sound.var(), rel=1e-12)
    assert source.statistics(total) is found


def test_statistics_of_less_than_the_sound(wav, media):
    source = open_audio(wav(media.speech(2, RATE)))
    assert source.statistics(20_000).variance == pytest.approx(source.read(0, 20_000, RATE, mono=True).var(), rel=1e-6)


def test_fingerprint_is_of_the_samples(wav, media):
    sound = media.speech(0.5, RATE, 2)
    source = open_audio(wav(sound))
    expected = hashlib.sha256(b"16000 Hz, 2 channels, " + sound.T.astype("<f4").tobytes()).hexdigest()
    assert source.fingerprint == expected
    assert source.fingerprint == TensorAudio(torch.from_numpy(sound), RATE).fingerprint
    sound[0, 7] += 1e-6
    assert open_audio(wav(sound)).fingerprint != expected


def test_tensor_audio_reads_as_the_file_does(wav, media):
    sound = media.speech(2.7, 44_100, 2)
    file, tensor = open_audio(wav(sound, 44_100)), TensorAudio(torch.from_numpy(sound), 44_100)
    np.testing.assert_allclose(
        file.read(0, 50_000, RATE, mono=True), tensor.read(0, 50_000, RATE, mono=True), atol=1e-6
    )


def test_video_file_with_sound(tmp_path, media):
    from livetalk_core.media.video import VideoWriter

    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(1))
    writer.write(media.pictures(25))
    source = open_audio(writer.finish())
    assert source.sample_rate == 44_100 and abs(source.seconds - 1) < 0.03


# What is refused


@pytest.mark.parametrize("large", [32_767.0, -1e30])
def test_numbers_that_are_no_sound(wav, large):
    """Whole numbers of 16 bits as floating-point ones: noise at any gain."""
    sound = np.zeros((2, 40_000))
    sound[1, 39_000] = large
    with pytest.raises(InputError, match=r"holds samples of .*, full scale being 1"):
        open_audio(wav(sound))
    with pytest.raises(InputError, match="full scale being 1"):
        TensorAudio(torch.from_numpy(sound), RATE)
    sound[1, 39_000] = 10
    assert open_audio(wav(sound)).samples == 40_000


def test_integers_of_64_bits(tmp_path, media):
    sound = media.speech(1, 16_000)
    path = tmp_path / "a.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s64le", rate=16_000)
        stream.codec_context.layout = "mono"
        resampler = av.AudioResampler("s64", "mono", 16_000)
        frame = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for part in (*resampler.resample(frame), None):
            container.mux(stream.encode(part))
    np.testing.assert_allclose(open_audio(path).read(0, 16_000, 16_000, mono=True), sound, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(wav, bad):
    sound = np.zeros((2, 40_000))
    sound[1, 39_000] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        open_audio(wav(sound))
    with pytest.raises(InputError, match="NaN or infinite"):
        TensorAudio(torch.from_numpy(sound), RATE)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 1_000_000_000])
def test_a_sample_rate_beyond_all_sense(wav, rate):
    with pytest.raises(InputError, match=f"has {rate} Hz; 1000 to 768000 Hz are read"):
        open_audio(wav(np.zeros((1, 2000)), rate))
    with pytest.raises(InputError, match=f"has {rate} Hz"):
        TensorAudio(torch.zeros(1, 2000), rate)


def test_no_samples(wav):
    with pytest.raises(InputError, match="no samples"):
        open_audio(wav(np.zeros((1, 0))))
    with pytest.raises(InputError, match="no samples"):
        TensorAudio(torch.zeros(1, 0), RATE)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 1, 5)])
def test_tensor_of_another_shape(shape):
    with pytest.raises(InputError, match="one sound at a time"):
        TensorAudio(torch.zeros(shape), RATE)


def test_video_without_sound(tmp_path, media):
    from livetalk_core.media.video import VideoWriter

    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64)
    writer.write(media.pictures(3))
    with pytest.raises(InputError, match="has no sound"):
        open_audio(writer.finish())


def test_missing_folder_empty_and_pipe(tmp_path):
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    for name, found in [
        ("none.wav", "does not exist"),
        ("", "is a folder"),
        ("pipe.wav", "not a regular file"),
        ("empty.wav", "is empty"),
    ]:
        with pytest.raises(InputError, match=found):
            open_audio(tmp_path / name)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.mp3", "concat:a.wav|b.wav", "data:audio/wav;base64,UklGRg=="])
def test_url(url):
    with pytest.raises(InputError, match="does not exist"):
        open_audio(url)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{target}'\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    "<Representation id='1' bandwidth='9' mimeType='audio/mp4'><BaseURL>{target}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.m3u8", "a.mp3", "a.txt", "a.aac"])
@pytest.mark.parametrize("script", [PLAYLIST, CONCAT, DASH, SDP, "<!DOCTYPE html><html>", "https://x.example/a.mp3"])
def test_playlists_scripts_and_pages(tmp_path, wav, media, name, script):
    """None is followed, not even to a sound that lies beside it."""
    wav(media.speech(1, RATE), name="target.wav")
    path = tmp_path / name
    path.write_text(script.format(target="target.wav"))
    with pytest.raises(InputError, match=r"text file that begins with '|no samples"):
        open_audio(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.m3u8"])
def test_playlist_fetches_nothing(tmp_path, listener, name):
    path = tmp_path / name
    path.write_text(PLAYLIST.format(target=f"http://127.0.0.1:{listener.port}/a.ts"))
    with pytest.raises(InputError, match="text file that begins with '#EXTM3U'"):
        open_audio(path)
    assert not listener.called()


@pytest.fixture
def listener():
    """A server that notices being called."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        class Listener:
            port = server.getsockname()[1]

            @staticmethod
            def called() -> bool:
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    return False
                return True

        yield Listener


@pytest.mark.parametrize("claim", [0, 0x7FFF_FFFF, 0xFFFF_FFFF - 36])
def test_wav_of_unknown_length_is_read_to_its_end(wav, media, claim):
    """As a pipe writes it: nothing is allocated from the claim."""
    assert open_audio(wav(media.speech(1, RATE), claim=claim)).samples == RATE


def test_unreadable(tmp_path, monkeypatch, wav, media):
    path = wav(media.speech(0.1, RATE))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        open_audio(path)


def test_tags_in_another_encoding(tmp_path, media):
    path = media.write_sound(tmp_path / "a.mp3", media.speech(0.5, 44_100), 44_100, "libmp3lame", "mono", frame=1152)
    latin = b"TAG" + b"Caf\xe9".ljust(30, b"\0") + b"\0" * 95
    path.write_bytes(path.read_bytes() + latin)
    assert open_audio(path).seconds > 0.4
