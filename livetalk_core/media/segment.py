"""One chunk of video as a fragment of an MP4 or MOV, made by encoders of its own.

The picture is one closed group of pictures; how the sound's packets come out the same, `sound` says. So a fragment
depends on its frames, its place in the video and the sound alone.
"""

import io
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

from ..errors import InputError
from ..shapes import FRAMES_PER_SECOND
from .coding import BT709, TV_RANGE, USUAL_CODING, Coding, usual_scheduling
from .sound import Sound

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


class Segment:
    """One chunk as a file in memory: a header that `header` makes once for all, and one fragment, number `index`.

    Index 0 makes the header itself; with AAC, its edit list tells players to skip the priming.
    """

    def __init__(self, picture: Picture, sound: Sound | None, metadata: dict[str, str], index: int) -> None:
        options = {"movflags": FRAGMENT_FLAGS}
        if index:
            options = {"movflags": FRAGMENT_FLAGS + "+frag_discont", "fragment_index": str(index)}
        self._memory = io.BytesIO()
        self._container = av.open(self._memory, "w", format=picture.coding.container, container_options=options)
        self._container.metadata.update(metadata)
        self._picture = picture
        self._video = picture.add_to(self._container)
        self._sound = sound
        self._audio = sound.add_to(self._container) if sound else None

    def add_image(self, image: np.ndarray, index: int) -> None:
        """Encode frame `index` of the video: uint8 [height, width, 3]."""
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        encoder = self._picture.coding.encoder
        frame = rgb.reformat(format=encoder.pixels, dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.colorspace, frame.color_range = BT709, TV_RANGE
        frame.pts, frame.time_base = index, Fraction(1, self._picture.rate)
        begins = not self._video.codec_context.is_open
        with usual_scheduling() if begins and encoder.seizes else nullcontext():
            packets = self._video.encode(frame)
        self._container.mux(packets)

    def add_sound(self, first: int, last: int) -> None:
        """Encode the packets that video frames [first, last) add."""
        if self._sound is not None and self._audio is not None:
            for packet in self._sound.packets_of(self._audio, first, last, self._picture.rate):
                self._container.mux(packet)

    def add_first_sound(self) -> None:
        """Encode what a header needs of the sound, whatever it is."""
        if self._sound is not None and self._audio is not None:
            for packet in self._sound.first_packets(self._audio):
                self._container.mux(packet)

    def close(self) -> bytes:
        """The whole file."""
        self._container.mux(self._video.encode(None))
        self._container.close()
        return self._memory.getvalue()


def header(picture: Picture, sound: Sound | None, metadata: dict[str, str]) -> bytes:
    """The file's start, up to its first fragment: streams and metadata, whatever the frames and the sound are."""
    segment = Segment(picture, sound, metadata, 0)
    segment.add_image(np.zeros((picture.height, picture.width, 3), np.uint8), 0)
    segment.add_first_sound()
    data = segment.close()
    return data[: _fragment_start(data)]


def fragment(data: bytes) -> bytes:
    """What a segment adds to the file."""
    return data[_fragment_start(data) :]


def _fragment_start(data: bytes) -> int:
    return next(start for kind, start, _ in _boxes(data, 0, len(data)) if kind == b"moof")


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each box of an MP4 or MOV in data[start:stop]."""
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
