"""Codecs and qualities: what is written plays, and a file that was cut back and continued is the same to the byte."""

import av
import numpy as np
import pytest
import torch

from livetalk_core.errors import InputError, ResumeError
from livetalk_core.media.coding import CODECS, Coding
from livetalk_core.media.video import VideoWriter

NAMES = {"h264": "h264", "h265": "hevc", "av1": "av1"}
CODINGS = [Coding(codec, 30) for codec in CODECS]


def written(writer, media, lengths):
    for length in lengths:
        writer.write(torch.from_numpy(media.pictures(length, first=writer.checkpoint.frames)))
        writer.end_chunk()
    return writer


@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_plays_and_shows_the_frames(tmp_path, media, coding):
    writer = VideoWriter.create(tmp_path / "a.mp4", 64, 64, media.tensor_audio(2), coding=coding)
    written(writer, media, (33, 17)).finish()
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name in (NAMES[coding.codec], "libdav1d")
        assert stream.codec_context.codec_tag == coding.encoder.tag
        assert stream.average_rate == 25 and stream.frames == 50
        times = [frame.pts * frame.time_base * 25 for frame in container.decode(video=0)]
    assert times == list(range(50))
    luma = media.pictures(50) @ np.array([0.2126, 0.7152, 0.0722]) * 219 / 255 + 16
    assert np.abs(media.decode_video(tmp_path / "a.mp4")[:, :64] - luma).mean() < 8


@pytest.mark.parametrize("coding", CODINGS, ids=CODECS)
def test_cut_back_and_continued_is_the_same_to_the_byte(tmp_path, media, coding):
    sound = media.tensor_audio(3)
    written(VideoWriter.create(tmp_path / "whole.mp4", 64, 64, sound, coding=coding), media, (33, 28)).finish()
    writer = written(VideoWriter.create(tmp_path / "cut.mp4", 64, 64, sound, coding=coding), media, (33,))
    checkpoint = writer.checkpoint
    writer.write(torch.zeros(5, 64, 64, 3, dtype=torch.uint8))
    writer.end_chunk()
    writer.close()
    resumed = VideoWriter.resume(tmp_path / "cut.mp4", checkpoint, 64, 64, sound, coding=coding)
    written(resumed, media, (28,)).finish()
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "cut.mp4").read_bytes()


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
