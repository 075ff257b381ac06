"""One chunk of video as a fragment of an MP4, made by encoders of its own.

The picture is one closed group of pictures; the sound's encoder starts `WARM_UP` packets early and drops them
again. So a fragment depends on its frames, its place in the video and the sound alone.
"""

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

from ..errors import InputError
from ..shapes import FRAMES_PER_SECOND
from .audio import AudioSource
from .coding import BT709, TV_RANGE, USUAL_CODING, Coding

# Constant quality keeps the bit rate's history out of the encoder, so that a fresh start soon gives the packets of
# a running one. About 120 kbit/s for mono speech at 48 kHz; the error is 41 to 49 dB below the speech.
AAC = {"flags": "+qscale", "global_quality": "236", "aac_coder": "fast"}
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates that are kept, in Hz. AAC has higher ones, which many telephones do not play."""
AAC_OTHER_RATE = 48_000
AAC_FRAME = 1024
"""Samples of a packet, and of silence that the encoder puts before the first (its priming)."""
WARM_UP = 16
LOOK_AHEAD = 4
FRAGMENT_FLAGS = "frag_custom+delay_moov+default_base_moof+skip_trailer+use_metadata_tags"


class Picture:
    """Size of the frames, how many come a second, and how they are encoded."""

    def __init__(self, height: int, width: int, rate: int = FRAMES_PER_SECOND, coding: Coding = USUAL_CODING) -> None:
        if height % 2 or width % 2 or min(height, width) < 2:
            raise InputError(f"frames of {width}x{height} px; video needs even sides: crop or scale by a pixel")
        self.height, self.width, self.rate, self.coding = height, width, rate, coding

    def add_to(self, container: OutputContainer) -> av.VideoStream:
        """A stream with a fresh encoder."""
        stream = self.coding.add_to(container, self.rate)
        stream.height, stream.width = self.height, self.width
        stream.codec_context.time_base = Fraction(1, self.rate)
        return stream


class Sound:
    """A source as a row of AAC packets. Packet n ends with sample n * 1024 of the sound; packet 0 is priming."""

    def __init__(self, source: AudioSource) -> None:
        self._source = source
        self.rate = source.sample_rate if source.sample_rate in AAC_RATES else AAC_OTHER_RATE
        self.layout = "mono" if source.channels == 1 else "stereo"

    @classmethod
    def of(cls, source: AudioSource | None) -> "Sound | None":
        """The sound of a source, if there is one."""
        return None if source is None else cls(source)

    def add_to(self, container: OutputContainer) -> av.AudioStream:
        """A stream with a fresh encoder."""
        stream = container.add_stream("aac", rate=self.rate, options=AAC)
        stream.codec_context.layout = self.layout
        return stream

    def packets(self, frames: int, frame_rate: int = FRAMES_PER_SECOND) -> int:
        """Packets, priming counted, that cover the sound of so many frames."""
        return 1 - (-frames * self.rate // (frame_rate * AAC_FRAME)) if frames else 0

    def frame(self, index: int) -> av.AudioFrame:
        """Samples [index, index + 1) * 1024 of the sound, zeros beyond its end."""
        samples = self._source.read(index * AAC_FRAME, AAC_FRAME, self.rate, mono=False)
        return self._as_frame(samples, index)

    def silence(self, index: int) -> av.AudioFrame:
        """Zeros in place of `frame`."""
        return self._as_frame(np.zeros((1 if self.layout == "mono" else 2, AAC_FRAME), np.float32), index)

    def _as_frame(self, samples: np.ndarray, index: int) -> av.AudioFrame:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, index * AAC_FRAME, Fraction(1, self.rate)
        return frame


class Segment:
    """One chunk as an MP4 in memory: a header that `header` makes once for all, and one fragment, number `index`.

    Index 0 makes the header itself, whose edit list tells players to skip the priming.
    """

    def __init__(self, picture: Picture, sound: Sound | None, metadata: dict[str, str], index: int) -> None:
        options = {"movflags": FRAGMENT_FLAGS}
        if index:
            options = {"movflags": FRAGMENT_FLAGS + "+frag_discont", "fragment_index": str(index)}
        self._memory = io.BytesIO()
        self._container = av.open(self._memory, "w", format="mp4", container_options=options)
        self._container.metadata.update(metadata)
        self._picture = picture
        self._video = picture.add_to(self._container)
        self._sound = sound
        self._audio = sound.add_to(self._container) if sound else None

    def add_image(self, image: np.ndarray, index: int) -> None:
        """Encode frame `index` of the video: uint8 [height, width, 3]."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.colorspace, frame.color_range = BT709, TV_RANGE
        frame.pts, frame.time_base = index, Fraction(1, self._picture.rate)
        self._container.mux(self._video.encode(frame))

    def add_sound(self, first: int, last: int) -> None:
        """Encode the packets that video frames [first, last) add.

        Their times are the file's, where the priming starts at 0.
        """
        if self._sound is None or self._audio is None:
            return
        start, stop = (self._sound.packets(frames, self._picture.rate) for frames in (first, last))
        begin = max(0, start - WARM_UP)
        frames = (self._sound.frame(index) for index in range(begin, stop + LOOK_AHEAD))
        for frame in (*frames, None):
            for packet in self._audio.encode(frame):
                number = _number(packet)
                if start <= number < stop:
                    packet.pts = packet.dts = number * AAC_FRAME
                    self._container.mux(packet)

    def add_priming(self) -> None:
        """Encode packet 0 of a silent sound, at its own negative time."""
        if self._sound is None or self._audio is None:
            return
        for frame in (self._sound.silence(0), None):
            for packet in self._audio.encode(frame):
                if _number(packet) == 0:
                    self._container.mux(packet)

    def close(self) -> bytes:
        """The whole MP4."""
        self._container.mux(self._video.encode(None))
        self._container.close()
        return self._memory.getvalue()


def _number(packet: av.Packet) -> int:
    assert packet.pts is not None
    return packet.pts // AAC_FRAME + 1


def header(picture: Picture, sound: Sound | None, metadata: dict[str, str]) -> bytes:
    """The file's start, up to its first fragment: streams and metadata, whatever the frames and the sound are."""
    segment = Segment(picture, sound, metadata, 0)
    segment.add_image(np.zeros((picture.height, picture.width, 3), np.uint8), 0)
    segment.add_priming()
    data = segment.close()
    return data[: _fragment_start(data)]


def fragment(data: bytes) -> bytes:
    """What a segment adds to the file."""
    return data[_fragment_start(data) :]


def _fragment_start(data: bytes) -> int:
    return next(start for kind, start, _ in _boxes(data, 0, len(data)) if kind == b"moof")


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each MP4 box in data[start:stop]."""
    while start + 8 <= stop:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8:
            return
        yield data[start + 4 : start + 8], start, start + size
        start += size


def read_header(file: io.FileIO) -> bytes:
    """The `header` of a file, which is open at its start."""
    data = b""
    for _ in ("ftyp", "moov"):
        head = file.read(8)
        data += head + file.read(max(0, int.from_bytes(head[:4], "big") - 8))
    return data


def count_fragments(file: io.FileIO, stop: int) -> int | None:
    """How many whole fragments an open file has up to byte `stop`; None where none of its boxes ends there."""
    count = position = 0
    while position < stop:
        file.seek(position)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if len(head) < 8 or size < 8:
            return None
        count += head[4:] == b"moof"
        position += size
    return count if position == stop else None


def tracks(data: bytes) -> list[bytes]:
    """The descriptions of the streams in a `header`: size, codec and its parameters."""
    moov = [(start, stop) for kind, start, stop in _boxes(data, 0, len(data)) if kind == b"moov"]
    inner = (box for start, stop in moov for box in _boxes(data, start + 8, stop))
    return [data[start:stop] for kind, start, stop in inner if kind == b"trak"]
