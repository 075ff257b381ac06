"""How the picture of a video is encoded: codec and quality, within what a growing file needs of an encoder.

It needs frames in the order in which they are shown, and the same packets from the same frames on any machine.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import torch
from av.container import OutputContainer

from ..errors import InputError
from ..shapes import FRAMES_PER_SECOND

BT709, TV_RANGE = 1, 1


class Encoder(NamedTuple):
    """An encoder of FFmpeg's: its name, its options beside the quality, the largest `crf`, and MP4's tag for it."""

    name: str
    options: dict[str, str]
    most_crf: int
    tag: str


# Four threads whatever the machine has: x264's output depends on their number.
X264 = {"preset": "veryfast", "bf": "0", "threads": "4"}
if torch.backends.cpu.get_cpu_capability() == "AVX512":
    # With it, x264 now and then makes another packet of the same frames, whatever the number of threads.
    X264["x264-params"] = "asm=avx2"
# Larger blocks than 32 px: x265 gives small pictures other packets each time.
X265 = {"preset": "veryfast", "x265-params": "bframes=0:frame-threads=1:pools=4:ctu=32:info=0:log-level=error"}
SVT_AV1 = {"preset": "10", "svtav1-params": "pred-struct=1:lp=4"}
ENCODERS = {
    "h264": Encoder("libx264", X264, 51, "avc1"),
    "h265": Encoder("libx265", X265, 51, "hvc1"),  # with the tag hev1, Apple's players show nothing
    "av1": Encoder("libsvtav1", SVT_AV1, 63, "av01"),
}
CODECS = tuple(codec for codec, encoder in ENCODERS.items() if encoder.name in av.codecs_available)
"""Those that this PyAV can write."""


@dataclass(frozen=True)
class Coding:
    """Codec and quality of a picture: a smaller `crf` is better and larger, each codec has its own scale."""

    codec: str = "h264"
    crf: int = 18

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InputError(f"codec {self.codec!r}; this PyAV can write {', '.join(CODECS)}: choose one of them")
        if not 0 <= self.crf <= self.encoder.most_crf:
            raise InputError(
                f"crf {self.crf}; {self.codec} has 0 (best) to {self.encoder.most_crf}: choose one of them"
            )

    @property
    def encoder(self) -> Encoder:
        """What encodes it."""
        return ENCODERS[self.codec]

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed render must not change, by name; the usual coding is not named."""
        return {} if self == Coding() else {"codec": self.codec, "crf": self.crf}

    def add_to(self, container: OutputContainer, rate: int = FRAMES_PER_SECOND) -> av.VideoStream:
        """A stream with a fresh encoder."""
        options = self.encoder.options | {"crf": str(self.crf)}
        stream = container.add_stream(self.encoder.name, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        coder = stream.codec_context
        coder.codec_tag = self.encoder.tag
        coder.pix_fmt = "yuv420p"
        coder.color_primaries = coder.color_trc = coder.colorspace = BT709
        coder.color_range = TV_RANGE
        return stream


USUAL_CODING = Coding()
"""Plays everywhere; hardly to be told from the frames."""
