"""Picture and sound of a live stream as H.264 and AAC in one container: fragmented MP4 for a browser, FLV for RTMP."""

import queue
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from ..media.coding import BT709, TV_RANGE
from ..shapes import FRAMES_PER_SECOND, SAMPLE_RATE
from .reel import Moment

SOUND_RATE = 48_000
AAC_FRAME = 1024
WAITING_SECONDS = 2
"""Of stream that may wait to be encoded; who is further behind does not keep up, and is let go."""
KEYFRAME_SECONDS = 2
X264 = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20", "g": str(KEYFRAME_SECONDS * FRAMES_PER_SECOND)}
# A fragment a frame, so that a browser gets it at once. (Not `frag_every_frame`: it puts all but the first 40 ms late.)
FRAGMENTED = {"movflags": "empty_moov+default_base_moof", "frag_duration": "40000", "flush_packets": "1"}


class Target(NamedTuple):
    """Where a container goes: a file object or an address, its format, and the format's options."""

    file: Any
    format: str
    options: dict[str, str]


class Muxer:
    """Encodes moments into one container, sound and picture from the same first moment on. For one thread."""

    def __init__(self, target: Target, height: int, width: int) -> None:
        self._container = av.open(target.file, "w", format=target.format, container_options=target.options)
        self._video = self._container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=X264)
        self._video.height, self._video.width, self._video.pix_fmt = height, width, "yuv420p"
        coder = self._video.codec_context
        coder.time_base = Fraction(1, FRAMES_PER_SECOND)
        coder.color_primaries = coder.color_trc = coder.colorspace = BT709
        coder.color_range = TV_RANGE
        coder.thread_count = 1  # more would hold frames back
        self._audio = self._container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        self._resampler = av.AudioResampler("fltp", "mono", SOUND_RATE, frame_size=AAC_FRAME)
        self._frames = 0

    def add(self, moment: Moment) -> None:
        """Encode the next moment."""
        self._add_picture(moment.pixels)
        self._add_sound(moment.sound)
        self._frames += 1

    def close(self) -> None:
        """Write what the encoders hold, and end the container."""
        self._container.mux(self._video.encode(None))
        self._container.close()

    def _add_picture(self, pixels: np.ndarray) -> None:
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.colorspace, frame.color_range = BT709, TV_RANGE
        frame.pts, frame.time_base = self._frames, Fraction(1, FRAMES_PER_SECOND)
        for packet in self._video.encode(frame):
            packet.duration = 1
            self._container.mux(packet)

    def _add_sound(self, sound: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._frames * len(sound)
        frame.time_base = Fraction(1, SAMPLE_RATE)
        for part in self._resampler.resample(frame):
            for packet in self._audio.encode(part):
                self._write_sound(packet)

    def _write_sound(self, packet: av.Packet) -> None:
        """All but the encoder's first packet, silence that it puts before the sound: so times are the sound's own."""
        assert packet.pts is not None
        if packet.pts >= 0:
            self._container.mux(packet)


class Encoded:
    """A sink that encodes on a thread of its own. `target` is opened there; `on_end` is told why, if it failed.

    Raises `OutputLost` into the session once it has failed, or is too far behind.
    """

    def __init__(
        self, target: Callable[[], Target], height: int, width: int, on_end: Callable[[Exception | None], None]
    ) -> None:
        self._target, self._size, self._on_end = target, (height, width), on_end
        self._waiting: queue.Queue[Moment | None] = queue.Queue(WAITING_SECONDS * FRAMES_PER_SECOND)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="LiveTalk encoder", daemon=True)
        self._thread.start()

    def __call__(self, moment: Moment) -> None:
        """Take the next moment."""
        if self._over:
            raise OutputLost("it cannot be written any more")
        try:
            self._waiting.put_nowait(moment)
        except queue.Full:
            raise OutputLost(f"it is {WAITING_SECONDS} s behind") from None

    def close(self) -> None:
        """End the container, without what waits; returns at once."""
        self._over = True
        while True:
            try:
                return self._waiting.put_nowait(None)
            except queue.Full:
                self._waiting.get_nowait()

    def _run(self) -> None:
        error = None
        try:
            self._encode()
        except Exception as failure:  # of FFmpeg, the network, a client: told, and the stream goes on
            error = failure
        self._over = True
        self._on_end(error)

    def _encode(self) -> None:
        muxer = Muxer(self._target(), *self._size)
        try:
            while (moment := self._waiting.get()) is not None:
                muxer.add(moment)
        finally:
            muxer.close()


class OutputLost(Exception):
    """An output that takes no more."""
