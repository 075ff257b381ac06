"""The sound of a video as packets: AAC in an MP4, uncompressed in a MOV for editors.

A chunk's packets depend on its place and the sound alone, whoever encoded what is before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.container import OutputContainer

from ..shapes import FRAMES_PER_SECOND
from .audio import AudioSource
from .coding import Coding

# Constant quality keeps the bit rate's history out of the encoder, so that a fresh start soon gives the packets of
# a running one. About 120 kbit/s for mono speech at 48 kHz; the error is 41 to 49 dB below the speech.
AAC = {"flags": "+qscale", "global_quality": "236", "aac_coder": "fast"}
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates that are kept, in Hz. AAC has higher ones, which many telephones do not play."""
OTHER_RATE = 48_000
AAC_FRAME = 1024
"""Samples of a packet, and of silence that the encoder puts before the first (its priming)."""
WARM_UP = 16
LOOK_AHEAD = 4
LARGEST_INT32 = 2**31 - 1


class Sound(ABC):
    """A source as packets at `rate` Hz, `mono` or `stereo` by `layout`."""

    def __init__(self, source: AudioSource) -> None:
        self._source = source
        self.rate = source.sample_rate if source.sample_rate in RATES else OTHER_RATE
        self.layout = "mono" if source.channels == 1 else "stereo"

    @staticmethod
    def of(source: AudioSource | None, coding: Coding) -> "Sound | None":
        """The sound of a source, if there is one, as it goes with a picture."""
        if source is None:
            return None
        return PCMSound(source) if coding.for_editors else AACSound(source)

    def add_to(self, container: OutputContainer) -> av.AudioStream:
        """A stream with a fresh encoder."""
        stream = self._stream(container)
        stream.codec_context.layout = self.layout
        return stream

    @abstractmethod
    def _stream(self, container: OutputContainer) -> av.AudioStream: ...

    @abstractmethod
    def first_packets(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        """What a file's header is made with: the encoder's priming, or any packet."""

    @abstractmethod
    def packets_of(self, stream: av.AudioStream, first: int, last: int, rate: int) -> Iterator[av.Packet]:
        """The packets that video frames [first, last) at `rate` a second add, at the file's times."""

    def _frame(self, samples: np.ndarray, start: int) -> av.AudioFrame:
        """Samples [channels, n] as a frame that begins with sample `start` of the sound."""
        planar = samples.dtype == np.float32
        plane = samples if planar else samples.T.reshape(1, -1)
        form = "fltp" if planar else "s32"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(plane), format=form, layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, start, Fraction(1, self.rate)
        return frame


class AACSound(Sound):
    """Packet n ends with sample n * 1024 of the sound; packet 0 is priming.

    An encoder starts `WARM_UP` packets early and drops them again. Times are the file's, where the priming starts at 0.
    """

    def _stream(self, container: OutputContainer) -> av.AudioStream:
        return container.add_stream("aac", rate=self.rate, options=AAC)

    def packets(self, frames: int, frame_rate: int = FRAMES_PER_SECOND) -> int:
        """Packets, priming counted, that cover the sound of so many frames."""
        return 1 - (-frames * self.rate // (frame_rate * AAC_FRAME)) if frames else 0

    def frame(self, index: int) -> av.AudioFrame:
        """Samples [index, index + 1) * 1024 of the sound, zeros beyond its end."""
        samples = self._source.read(index * AAC_FRAME, AAC_FRAME, self.rate, mono=False)
        return self._frame(samples, index * AAC_FRAME)

    def first_packets(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        """Packet 0 of a silent sound, at its own negative time."""
        silence = np.zeros((1 if self.layout == "mono" else 2, AAC_FRAME), np.float32)
        for frame in (self._frame(silence, 0), None):
            yield from (packet for packet in stream.encode(frame) if _number(packet) == 0)

    def packets_of(self, stream: av.AudioStream, first: int, last: int, rate: int) -> Iterator[av.Packet]:
        """See `Sound`."""
        start, stop = (self.packets(frames, rate) for frames in (first, last))
        frames = (self.frame(index) for index in range(max(0, start - WARM_UP), stop + LOOK_AHEAD))
        for frame in (*frames, None):
            for packet in stream.encode(frame):
                number = _number(packet)
                if start <= number < stop:
                    packet.pts = packet.dts = number * AAC_FRAME
                    yield packet


class PCMSound(Sound):
    """24 bit, uncompressed: exactly the samples of each frame."""

    def _stream(self, container: OutputContainer) -> av.AudioStream:
        return container.add_stream("pcm_s24le", rate=self.rate)

    def first_packets(self, stream: av.AudioStream) -> Iterator[av.Packet]:
        """The first frame's: nothing needs priming, but a track without packets has no description."""
        return self.packets_of(stream, 0, 1, FRAMES_PER_SECOND)

    def packets_of(self, stream: av.AudioStream, first: int, last: int, rate: int) -> Iterator[av.Packet]:
        """See `Sound`: a packet for each frame."""
        edges = [index * self.rate // rate for index in range(first, last + 1)]
        for start, stop in pairwise(edges):
            samples = self._source.read(start, stop - start, self.rate, mono=False).clip(-1, 1)
            integers = (samples.astype(np.float64) * LARGEST_INT32).round().astype(np.int32)
            yield from stream.encode(self._frame(integers, start))
        yield from stream.encode(None)


def _number(packet: av.Packet) -> int:
    assert packet.pts is not None
    return packet.pts // AAC_FRAME + 1
