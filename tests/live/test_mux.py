"""What a browser gets: sound and picture from the same moment on, told apart by what is in them."""

import io

import av
import numpy as np
import pytest

from livetalk_core.live.mux import FRAGMENTED, Encoded, Muxer, OutputLost, Target
from livetalk_core.live.reel import Moment

SIDE = 64
MARKED = (20, 70, 120)


class Pieces(io.RawIOBase):
    """A file that cannot be sought in."""

    def __init__(self):
        self.pieces = []

    def writable(self):
        return True

    def seekable(self):
        return False

    def write(self, data):
        self.pieces.append(bytes(data))
        return len(data)


def moments(count, marked=MARKED):
    """Dark and silent, but for the marked ones: white, with a tone."""
    tone = (np.sin(np.arange(640) * 2 * np.pi * 1000 / 16_000) / 2).astype(np.float32)
    for index in range(count):
        white = index in marked
        pixels = np.full((SIDE, SIDE, 3), 255 if white else 20, np.uint8)
        yield Moment(None, pixels, tone if white else np.zeros(640, np.float32))


def seen_and_heard(data):
    """When the picture turns white and when the tone begins, in seconds of the file."""
    with av.open(io.BytesIO(data)) as file:
        white = [float(frame.time) for frame in file.decode(video=0) if frame.to_ndarray(format="rgb24").mean() > 128]
    with av.open(io.BytesIO(data)) as file:
        rate = file.streams.audio[0].rate
        sound = np.zeros(rate * 10)
        for frame in file.decode(audio=0):
            samples, at = frame.to_ndarray()[0], round(float(frame.time) * rate)
            sound[at : at + len(samples)] = samples
    loud = np.flatnonzero(np.abs(sound) > 0.2)
    return white, loud[np.r_[True, np.diff(loud) > rate // 10]] / rate


def test_sound_and_picture_are_in_step_to_the_millisecond():
    pieces = Pieces()
    muxer = Muxer(Target(pieces, "mp4", FRAGMENTED), SIDE, SIDE)
    for moment in moments(150):
        muxer.add(moment)
    muxer.close()
    white, loud = seen_and_heard(b"".join(pieces.pieces))
    assert white == [index / 25 for index in MARKED]
    assert loud == pytest.approx(white, abs=0.002)


def test_a_frame_leaves_before_the_next_one_comes_but_two():
    pieces = Pieces()
    muxer = Muxer(Target(pieces, "mp4", FRAGMENTED), SIDE, SIDE)
    counts = []
    for moment in moments(50):
        muxer.add(moment)
        counts.append(b"".join(pieces.pieces).count(b"moof"))
    muxer.close()
    assert counts[0] == 0 and all(index - count <= 2 for index, count in enumerate(counts))


def test_who_does_not_read_is_let_go_and_the_session_does_not_wait():
    class Stuck(Pieces):
        def write(self, data):
            raise OSError("the reader does not keep up")

    ended = []
    sink = Encoded(lambda: Target(Stuck(), "mp4", FRAGMENTED), SIDE, SIDE, ended.append)
    with pytest.raises(OutputLost):
        for moment in moments(2000):
            sink(moment)
    sink.close()
    sink._thread.join(10)
    assert isinstance(ended[0], OSError)
