"""The recording of a live stream."""

import io

import av
import numpy as np
import pytest
from test_mux import SIDE, moments, seen_and_heard

from livetalk_core.errors import OutputError
from livetalk_core.live.record import AHEAD, CHUNK, Recorder, numbered


@pytest.mark.parametrize("count", [1, CHUNK + AHEAD, 130])
def test_every_frame_and_sample_is_in_the_file(tmp_path, count):
    recorder = Recorder(tmp_path / "talk.mp4", SIDE, SIDE)
    for moment in moments(count):
        recorder(moment)
    recorder.close()
    assert recorder.error is None
    data = (tmp_path / "talk.mp4").read_bytes()
    with av.open(io.BytesIO(data)) as file:
        assert sum(1 for _ in file.decode(video=0)) == count
    if count == 130:
        white, loud = seen_and_heard(data)
        assert white == pytest.approx([0.8, 2.8, 4.8], abs=1e-6)
        assert loud == pytest.approx(white, abs=0.01)


def test_sound_is_whole_over_the_borders_of_chunks(tmp_path):
    """A tone of 4 s decodes as one: no click where one encoder takes over from another."""
    recorder = Recorder(tmp_path / "talk.mp4", SIDE, SIDE)
    tone = (np.sin(np.arange(100 * 640) * 2 * np.pi * 200 / 16_000) / 2).astype(np.float32)
    for index, moment in enumerate(moments(100)):
        recorder(moment._replace(sound=tone[index * 640 : (index + 1) * 640]))
    recorder.close()
    with av.open(str(tmp_path / "talk.mp4")) as file:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    heard = heard[: len(tone)]
    assert np.abs(heard - tone[: len(heard)])[2000:-2000].max() < 0.08


def test_the_partial_file_plays_while_it_grows(tmp_path):
    recorder = Recorder(tmp_path / "talk.mp4", SIDE, SIDE)
    for moment in moments(3 * CHUNK):
        recorder(moment)
    while recorder._writer.checkpoint.frames < 2 * CHUNK:
        pass
    with av.open(str(tmp_path / "talk.partial.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 2 * CHUNK
    recorder.close()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "talk.mp4").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        Recorder(tmp_path / "talk.mp4", SIDE, SIDE)


def test_later_sessions_have_numbers(tmp_path):
    assert [numbered(tmp_path / "talk.mp4", number).name for number in (1, 2, 10)] == [
        "talk.mp4", "talk-2.mp4", "talk-10.mp4",
    ]  # fmt: skip
