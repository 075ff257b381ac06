"""Where in time each piece of sound belongs: holes and late starts become silence, overlaps are trimmed.

Positions are samples of the sound as it is given out, from 0.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median_low
from typing import NamedTuple, TypeVar

import av

from .decoding import EQUAL_PACKETS, LOST_START_SECONDS, MATROSKA, Fault, Track

SLACK_SECONDS = 0.04
"""How far timestamps may be off before they are followed: recorders' clocks jitter, and a frame of video is as long."""
LATE_SECONDS = 0.001
WITHOUT_HOLES = ("ogg", "flac")
"""Formats whose sound has no pauses: what their timestamps leave out was there."""
AHEAD = 4
"""Frames behind a gap in Ogg whose times are asked: those where a page begins may have their neighbours'."""
NEW_CLOCKS, NEW_CLOCK_SECONDS = ("mpegts", "mpeg"), 10.0
"""Formats that are joined as they are, each part with a clock of its own; a step by more is one (as ffmpeg has it)."""
OVERLAP_SECONDS, RESTART_SECONDS = 1.0, 0.25
"""A step back by more is no overlap: another recording was joined to the first, with a clock of its own. The second:
one back to the beginning."""
MOST_FILLED = 2 * 48_000 * 3600
"""Samples of silence, over all channels, that a file's timestamps are granted: an hour in stereo."""
LEAST_LOST = 0.2
"""Part of a packet that must be left over at the end for the end to count as missing: some writers pad with a byte."""
NEGLIGIBLE_SECONDS = 0.1
"""What the end may lack of the length that the headers give before it counts as cut off."""


Item = TypeVar("Item")


class Silence(NamedTuple):
    """Samples without sound."""

    samples: int


class Trimmed(NamedTuple):
    """A frame whose first `skip` samples are left out."""

    frame: av.AudioFrame
    skip: int


class Gap(NamedTuple):
    """Silence in place of sound. `damaged`: the sound was there and could not be read; else the file has a hole."""

    start: float
    seconds: float
    damaged: bool


class Report:
    """What was put right in a file: gaps in order, whether its end is missing, and the seconds that were read."""

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        self.cut_off = False
        self.read = 0.0

    def add(self, start: float, seconds: float, damaged: bool) -> None:
        """A gap; one that continues the last is part of it."""
        if self.gaps and self.gaps[-1].damaged == damaged and start - sum(self.gaps[-1][:2]) < 0.001:
            last = self.gaps.pop()
            start, seconds = last.start, last.seconds + seconds
        self.gaps.append(Gap(start, seconds, damaged))

    @property
    def unreadable(self) -> float:
        """Seconds of sound that was there and could not be read."""
        return sum(gap.seconds for gap in self.gaps if gap.damaged)

    def notes(self, end: float) -> list[str]:
        """What the user should know, a line for each kind; `end`: seconds of the whole."""
        kinds = (
            (True, "unreadable; silence in their place"),
            (False, "without sound, by the timestamps; silence there"),
        )
        lines = [_line([gap for gap in self.gaps if gap.damaged == damaged], words) for damaged, words in kinds]
        if self.cut_off:
            lines.append(f"cut off at {clock(end)}; what followed is unreadable")
        return [line for line in lines if line]


def _line(gaps: list[Gap], words: str) -> str:
    if not gaps:
        return ""
    seconds = f"{sum(gap.seconds for gap in gaps):.2f} s"
    if len(gaps) == 1:
        return f"{seconds} at {clock(gaps[0].start)} {words}"
    return f"{seconds} in {len(gaps)} places, the first at {clock(gaps[0].start)}, {words}"


def clock(seconds: float) -> str:
    """hh:mm:ss."""
    return f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _followed(items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, list[Item]]]:
    """Each item with the next few, `ahead` at most."""
    held: deque[Item] = deque()
    for item in items:
        held.append(item)
        if len(held) > ahead:
            yield held.popleft(), list(held)
    while held:
        yield held.popleft(), list(held)


class Timeline:
    """Lays out the frames of one track, behind what is in the report from earlier parts of the file."""

    def __init__(self, track: Track, report: Report) -> None:
        self._track, self._report = track, report
        self._begin = report.read + sum(gap.seconds for gap in report.gaps)
        self._name = track.container.format.name
        self._rate = 0
        self._position = 0
        self._shift: int | None = None
        self._first_at = 0
        self._last_at: int | None = None
        self._filled = 0
        self._lost: float | None = None
        self._last = 0

    def lay_out(self, items: Iterable[av.AudioFrame | Fault]) -> Iterator[av.AudioFrame | Silence | Trimmed]:
        """The frames in their places, silence between them, and behind the last up to the promised length."""
        for item, following in _followed(items, AHEAD if self._name == "ogg" else 0):
            if isinstance(item, Fault):
                self._lost = (self._lost or 0.0) + item.packets
                continue
            self._rate = self._rate or item.sample_rate
            yield from self._placed(item, [frame for frame in following if isinstance(frame, av.AudioFrame)])
        yield from self._end()

    def _placed(
        self, frame: av.AudioFrame, following: list[av.AudioFrame]
    ) -> Iterator[av.AudioFrame | Silence | Trimmed]:
        ahead, length = self._ahead(frame, following), self._length(frame)
        self._lost, self._last = None, length
        if ahead > 0:
            yield Silence(ahead)
            self._position += ahead
        skip = min(length, -ahead) if ahead < 0 else 0
        self._position += length - skip
        self._report.read += (length - skip) / self._rate
        if not skip:
            yield frame
        elif skip < length:
            yield Trimmed(frame, round(skip * frame.samples / length))

    def _length(self, frame: av.AudioFrame) -> int:
        same = frame.sample_rate == self._rate
        return frame.samples if same else round(frame.samples * self._rate / frame.sample_rate)

    def _ahead(self, frame: av.AudioFrame, following: list[av.AudioFrame]) -> int:
        """Samples of silence before the frame, or of it that are to be trimmed (below 0)."""
        if self._track.raw:
            return self._gap(int(self._lost + 0.25) * frame.samples, damaged=True) if self._lost else 0
        at, before = self._at(frame), self._last_at
        self._last_at = at
        if at is None or at == before:  # some containers count nothing
            return 0
        if self._shift is None:
            return self._first(at)
        ahead = at - self._shift - self._position
        if ahead > SLACK_SECONDS * self._rate and self._name == "ogg":
            ahead = self._agreed([frame, *following]) - self._shift - self._position
        slack = 0 if self._lost is not None and ahead > 0 else SLACK_SECONDS * self._rate
        if abs(ahead) <= slack:
            return 0
        if ahead > NEW_CLOCK_SECONDS * self._rate and self._name in NEW_CLOCKS:
            filled = 0
        elif ahead > 0:
            damaged = self._lost is not None or self._name in WITHOUT_HOLES
            filled = self._gap(ahead, damaged)
        else:
            most = OVERLAP_SECONDS if at > self._first_at else RESTART_SECONDS
            filled = ahead if -ahead <= most * self._rate else 0
        self._shift += ahead - filled
        return filled

    def _at(self, frame: av.AudioFrame) -> int | None:
        """A frame's time in samples; None where it has none."""
        if frame.pts is None or frame.time_base is None:
            return None
        return round(frame.pts * frame.time_base.numerator * self._rate / frame.time_base.denominator)

    def _agreed(self, frames: list[av.AudioFrame]) -> int:
        """When the first of these frames begins, by the times of most of them."""
        starts, length = [], 0
        for frame in frames:
            at = self._at(frame)
            starts += [] if at is None else [at - length]
            length += self._length(frame)
        return median_low(starts)

    def _first(self, at: int) -> int:
        """Silence before the first frame: how much later it is than the file's picture, or what is lost before it."""
        self._first_at = at
        latest = self._track.latest_start
        if latest is not None and max(latest, LATE_SECONDS * self._rate) <= at <= LOST_START_SECONDS * self._rate:
            self._shift = 0
            return self._gap(at, damaged=True)
        origin = self._track.origin
        late = 0 if origin is None else at - round(origin * self._rate)
        late = late if LATE_SECONDS * self._rate <= late <= self._left else 0
        self._shift = at - late
        self._filled += late
        return late

    @property
    def _left(self) -> int:
        """Samples of silence that may still be filled in."""
        return MOST_FILLED // max(2, self._track.stream.codec_context.channels) - self._filled

    def _gap(self, samples: int, damaged: bool) -> int:
        """Take note of a gap; as many samples of it as are filled."""
        samples = max(0, min(samples, self._left))
        if samples:
            self._filled += samples
            self._report.add(self._begin + self._position / self._rate, samples / self._rate, damaged)
        return samples

    def _end(self) -> Iterator[Silence]:
        if self._lost and self._name in EQUAL_PACKETS:
            pause = self._gap(round(self._lost) * self._last, damaged=True)
            self._position, self._lost = self._position + pause, None
            yield Silence(pause)
        promised = self._track.promised
        # The length counts from the stream's beginning there, which may be long before the first sound.
        skipped = max(0, self._shift or 0) if self._name in ("ogg", MATROSKA) else 0
        missing = 0 if promised is None else round(promised * self._rate) - self._position - skipped
        if missing > self._track.most_missing * (promised or 0.0) * self._rate:
            missing = 0
        if missing > NEGLIGIBLE_SECONDS * self._rate:
            filled = self._gap(missing, damaged=True)
            self._position += filled
            yield Silence(filled)
        elif self._track.cut or ((promised is None or missing > 0) and (self._lost or 0.0) > LEAST_LOST):
            self._report.cut_off = True
