"""How a video is encoded: codec, quality and container, within what a growing file needs of an encoder.

It needs frames in the order in which they are shown, and the same packets from the same frames on any machine.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from av.container import OutputContainer

from ..errors import InputError
from ..files import shown
from ..shapes import FRAMES_PER_SECOND

BT709, TV_RANGE = 1, 1


class Encoder(NamedTuple):
    """An encoder of FFmpeg's: its name, its options beside the quality, the largest `crf`, and the container's tag.

    Without a `most_crf` there is one quality. `pixels` are what it takes. `seizes` says that it takes the machine for
    itself where root runs it: see `usual_scheduling`.
    """

    name: str
    options: dict[str, str]
    most_crf: int | None
    tag: str
    pixels: str = "yuv420p"
    container: str = "mp4"
    seizes: bool = False


# Four threads whatever the machine has: x264's output depends on their number.
X264 = {"preset": "veryfast", "bf": "0", "threads": "4"}
if torch.backends.cpu.get_cpu_capability() == "AVX512":
    # With it, x264 now and then makes another packet of the same frames, whatever the number of threads.
    X264["x264-params"] = "asm=avx2"
# Larger blocks than 32 px: x265 gives small pictures other packets each time.
X265 = {"preset": "veryfast", "x265-params": "bframes=0:frame-threads=1:pools=4:ctu=32:info=0:log-level=error"}
# A packet for each frame, at once. Without `rtc`, SVT-AV1 4.1 waits for its own threads for ever, in one of some twenty
# videos on two cores.
SVT_AV1 = {"preset": "10", "svtav1-params": "pred-struct=1:rtc=1:lp=4"}
# 422 HQ, the usual one for editing: each frame by itself, 10 bit.
PRORES = {"profile": "3", "vendor": "apl0", "threads": "4"}
ENCODERS = {
    "h264": Encoder("libx264", X264, 51, "avc1"),
    "h265": Encoder("libx265", X265, 51, "hvc1"),  # with the tag hev1, Apple's players show nothing
    "av1": Encoder("libsvtav1", SVT_AV1, 63, "av01", seizes=True),
    "prores": Encoder("prores_ks", PRORES, None, "apch", "yuv422p10le", "mov"),
}
CODECS = tuple(codec for codec, encoder in ENCODERS.items() if encoder.name in av.codecs_available)
"""Those that this PyAV can write."""


SUFFIXES = tuple(f".{container}" for container in dict.fromkeys(each.container for each in ENCODERS.values()))
"""Endings of a video's name, the usual one first."""


@dataclass(frozen=True)
class Coding:
    """Codec and quality of a video: a smaller `crf` is better and larger, each codec has its own scale or none."""

    codec: str = "h264"
    crf: int = 18

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise InputError(f"codec {self.codec!r}; this PyAV can write {', '.join(CODECS)}: choose one of them")
        most = self.encoder.most_crf
        if most is not None and not 0 <= self.crf <= most:
            raise InputError(f"crf {self.crf}; {self.codec} has 0 (best) to {most}: choose one of them")

    @property
    def encoder(self) -> Encoder:
        """What encodes it."""
        return ENCODERS[self.codec]

    @property
    def container(self) -> str:
        """FFmpeg's name of the container, which is also the ending of the file's name."""
        return self.encoder.container

    @property
    def suffix(self) -> str:
        """The ending of the file's name: `.mp4`, or `.mov` for editors."""
        return f".{self.container}"

    @property
    def for_editors(self) -> bool:
        """Whether it is made to be edited: with uncompressed sound; no browser plays it."""
        return self.container == "mov"

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed render must not change, by name; the usual coding is not named."""
        if self == Coding():
            return {}
        return {"codec": self.codec} | ({} if self.encoder.most_crf is None else {"crf": self.crf})

    def check_name(self, video: Path) -> None:
        """Raise `InputError` unless a video of this codec may have that name."""
        if video.suffix.lower() != self.suffix:
            other = next((name for name, each in ENCODERS.items() if f".{each.container}" == video.suffix.lower()), "")
            choice = f", or another codec ({other})" if other in CODECS else ""
            raise InputError(
                f"output {shown(video)}; {self.codec} needs a name that ends in {self.suffix}: change it{choice}"
            )

    def add_to(self, container: OutputContainer, rate: int = FRAMES_PER_SECOND) -> av.VideoStream:
        """A stream with a fresh encoder."""
        quality = {} if self.encoder.most_crf is None else {"crf": str(self.crf)}
        stream = container.add_stream(self.encoder.name, rate=rate, options=self.encoder.options | quality)
        assert isinstance(stream, av.VideoStream)
        coder = stream.codec_context
        coder.codec_tag = self.encoder.tag
        coder.pix_fmt = self.encoder.pixels
        coder.color_primaries = coder.color_trc = coder.colorspace = BT709
        coder.color_range = TV_RANGE
        return stream


USUAL_CODING = Coding()
"""Plays everywhere; hardly to be told from the frames."""


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """The calling thread, and those that are begun meanwhile, are scheduled as it was before.

    SVT-AV1 gives both the highest priority of real time where root runs it, as in most containers: nothing else on the
    machine, and nothing that is started from here, would get its turn.
    """
    if sys.platform != "linux":
        yield
        return
    policy, priority, others = os.sched_getscheduler(0), os.sched_getparam(0), set(_threads())
    try:
        yield
    finally:
        for thread in {threading.get_native_id()} | (set(_threads()) - others):
            with suppress(OSError):  # it has ended meanwhile
                os.sched_setscheduler(thread, policy, priority)


def _threads() -> list[int]:
    return [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
