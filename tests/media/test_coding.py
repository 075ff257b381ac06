"""Codecs and qualities: what is written plays, and a file that was cut back and continued is the same to the byte."""

import errno
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from livetalk_core.errors import InputError, OutputError, ResumeError
from livetalk_core.media.coding import CODECS, Coding
from livetalk_core.media.video import VideoWriter

NAMES = {"h264": "h264", "h265": "hevc", "av1": "av1", "prores": "prores"}
ROOT = Path(__file__).resolve().parents[2]
CODINGS = [Coding(codec, 30) for codec in CODECS]


def written(writer, media, lengths):
    for length in lengths:
        writer.write(torch.from_numpy(media.pictures(length, first=writer.checkpoint.frames)))
        writer.end_chunk()
    return writer


@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_plays_and_shows_the_frames(tmp_path, media, coding):
    path = tmp_path / f"a{coding.suffix}"
    writer = VideoWriter.create(path, 64, 64, media.tensor_audio(2), coding=coding)
    written(writer, media, (33, 17)).finish()
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name in (NAMES[coding.codec], "libdav1d")
        assert stream.codec_context.codec_tag == coding.encoder.tag
        assert stream.average_rate == 25 and stream.frames == 50
        frames = list(container.decode(video=0))
    assert [frame.pts * frame.time_base * 25 for frame in frames] == list(range(50))
    shown = np.stack([frame.to_ndarray(format="yuv420p")[:64] for frame in frames])
    luma = media.pictures(50) @ np.array([0.2126, 0.7152, 0.0722]) * 219 / 255 + 16
    assert np.abs(shown - luma).mean() < 8


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="encoders take priorities from root alone")
@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_no_encoder_takes_the_machine_for_itself(tmp_path, media, coding):
    """SVT-AV1 of root makes real-time threads of its own, and of the one that opens it."""
    writer = VideoWriter.create(tmp_path / f"a{coding.suffix}", 64, 64, media.tensor_audio(1), coding=coding)
    writer.write(torch.from_numpy(media.pictures(5)))
    policies = {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}
    writer.end_chunk()
    assert policies == {os.SCHED_OTHER}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling is Linux's")
@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_an_encoder_begins_without_a_descriptor_or_says_what_is_missing(tmp_path, media, coding, monkeypatch):
    """Threads are listed, which takes one, for SVT-AV1 alone."""

    def none_is_left():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("livetalk_core.media.coding._threads", none_is_left)
    expected = pytest.raises(OutputError, match=r"\(Too many open files\): .* \(ulimit -n\)$")
    with expected if coding.codec == "av1" else nullcontext():
        writer = VideoWriter.create(tmp_path / f"a{coding.suffix}", 64, 64, media.tensor_audio(1), coding=coding)
        written(writer, media, (5,)).finish()


@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_cut_back_and_continued_is_the_same_to_the_byte(tmp_path, media, coding):
    sound = media.tensor_audio(3)
    whole, cut = (tmp_path / f"{name}{coding.suffix}" for name in ("whole", "cut"))
    written(VideoWriter.create(whole, 64, 64, sound, coding=coding), media, (33, 28)).finish()
    writer = written(VideoWriter.create(cut, 64, 64, sound, coding=coding), media, (33,))
    checkpoint = writer.checkpoint
    writer.write(torch.zeros(5, 64, 64, 3, dtype=torch.uint8))
    writer.end_chunk()
    writer.close()
    resumed = VideoWriter.resume(cut, checkpoint, 64, 64, sound, coding=coding)
    written(resumed, media, (28,)).finish()
    assert whole.read_bytes() == cut.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, cut.name}


MANY_CHUNKS = """
import sys, torch
from pathlib import Path
from livetalk_core.media.coding import Coding
from livetalk_core.media.video import VideoWriter
picture = torch.randint(256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
coding = Coding(sys.argv[1], 40)
writer = VideoWriter.create(Path(sys.argv[2]) / f"a{coding.suffix}", 64, 64, coding=coding)
for chunk in range(25):
    writer.write(torch.cat([picture.roll((number, chunk), (1, 2)) for number in range(28)]))
    writer.end_chunk()
writer.finish()
"""


@pytest.mark.skipif("av1" not in CODECS, reason="this PyAV writes no AV1")
def test_av1_does_not_wait_for_itself(tmp_path):
    """In a process of its own, which can be ended: SVT-AV1 stood still for ever in one of some twenty chunks."""
    command = [sys.executable, "-c", MANY_CHUNKS, "av1", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, timeout=240, check=True)


def test_a_smaller_crf_is_larger(tmp_path, media):
    sizes = []
    for crf in (10, 30):
        writer = VideoWriter.create(tmp_path / f"{crf}.mp4", 64, 64, coding=Coding("h264", crf))
        sizes.append(written(writer, media, (33,)).finish().stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.skipif(len(CODECS) < 2, reason="this PyAV has one codec")
def test_a_partial_of_another_codec_is_refused(tmp_path, media):
    writer = written(VideoWriter.create(tmp_path / "a.mp4", 64, 64), media, (33,))
    writer.close()
    with pytest.raises(ResumeError, match="encoder"):
        VideoWriter.resume(tmp_path / "a.mp4", writer.checkpoint, 64, 64, coding=Coding(CODECS[1]))


@pytest.mark.parametrize(("codec", "crf", "named"), [("vp6", 18, "h264"), ("h264", 52, "0 .best. to 51")])
def test_names_what_is_possible(codec, crf, named):
    with pytest.raises(InputError, match=named):
        Coding(codec, crf)


def test_the_usual_coding_changes_no_older_sidecar():
    assert Coding().identity == {} and Coding("h264", 20).identity == {"codec": "h264", "crf": 20}


needs_prores = pytest.mark.skipif("prores" not in CODECS, reason="this PyAV has no prores_ks")


@needs_prores
def test_prores_is_as_editors_want_it(tmp_path, media):
    """4:2:2, 10 bit, each frame by itself, colours named, sound uncompressed, in a QuickTime file."""
    sound = media.tensor_audio(1.5, channels=2)
    writer = VideoWriter.create(tmp_path / "a.mov", 64, 64, sound, {"prompt": "{}"}, coding=Coding("prores"))
    assert written(writer, media, (33,)).close() == tmp_path / "a.partial.mov"
    assert len(media.decode_video(writer.partial)) == 33, "it plays while it grows"
    resumed = VideoWriter.resume(tmp_path / "a.mov", writer.checkpoint, 64, 64, sound, coding=Coding("prores"))
    path = written(resumed, media, (4,)).finish()
    with av.open(str(path)) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        assert (video.codec_context.name, video.codec_context.codec_tag, video.profile) == ("prores", "apch", "HQ")
        assert video.codec_context.pix_fmt == "yuv422p10le"
        assert (video.codec_context.colorspace, video.codec_context.color_range) == (1, 1)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("pcm_s24le", 44_100, 2)
        assert audio.duration == 37 * 44_100 // 25
        assert container.metadata["major_brand"] == "qt  " and container.metadata["prompt"] == "{}"
        assert all(packet.is_keyframe for packet in container.demux(video) if packet.size)


@needs_prores
@pytest.mark.parametrize(("codec", "name", "needed"), [("prores", "a.mp4", ".mov"), ("h264", "a.mov", ".mp4")])
def test_the_ending_goes_with_the_codec(tmp_path, codec, name, needed):
    with pytest.raises(InputError, match=f"{codec} needs a name that ends in {needed}"):
        VideoWriter.create(tmp_path / name, 64, 64, coding=Coding(codec))


@needs_prores
def test_two_containers_of_one_name_are_two_videos(tmp_path, media):
    """A partial of one is neither in the other's way, nor cleared away with it."""
    film = written(VideoWriter.create(tmp_path / "a.mov", 64, 64, coding=Coding("prores")), media, (5,))
    film.place.describe({"inputs": {}, "video": {}, "next_chunk": 1})
    film.close()
    written(VideoWriter.create(tmp_path / "a.mp4", 64, 64), media, (5,)).finish()
    assert film.partial.exists() and film.place.chunks == 1


@needs_prores
def test_prores_has_one_quality(tmp_path):
    assert Coding("prores", 3).identity == Coding("prores", 30).identity == {"codec": "prores"}
