"""Picture and sound, as a `Coding` says, into an MP4 or MOV that grows chunk by chunk and survives a kill.

While it grows, the video is `name.partial.mp4` (or `.mov`): a header, then one fragment (moof and mdat) a chunk,
appended whole and fsynced by `end_chunk`. A fragment depends on its frames, its place and the sound alone (see
`segment`), so a file that was cut back to a checkpoint and continued equals, byte for byte, one that never stopped.

`finish` copies the packets into an ordinary file with its index in front, gives it the final name, and only then
removes the partial one. Until that copy is done, it needs as much disk again as the video has; it can be stopped at
any packet, and the partial video stays as it was.

From `create` or `resume` until `finish` or `close` the writer holds its `OutputPlace`: two never write one video.
"""

import io
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from ..errors import InputError, ResumeError
from ..files import writing
from ..shapes import FRAMES_PER_SECOND
from .audio import AudioSource
from .coding import USUAL_CODING, Coding
from .containers import address
from .place import OutputPlace
from .segment import Picture, Segment, count_fragments, fragment, header, read_header, tracks
from .sound import Sound

CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
ANEW = "begin anew with --overwrite"
"""Without `--resume`, what to do where a partial video is of no use."""


def ignore_packet() -> None:
    """What a caller does with each copied packet that does not watch."""


class Checkpoint(NamedTuple):
    """What is safely on disk: the partial file's first `bytes` hold `chunks` whole chunks of `frames` in all."""

    bytes: int
    frames: int
    chunks: int


class VideoWriter:
    """Writes frames and sound, in step. Made by `create` or `resume`."""

    _file: io.FileIO

    def __init__(self, place: OutputPlace, picture: Picture, sound: Sound | None, overwrite: bool) -> None:
        self.place, self.path, self.partial = place, place.video, place.partial
        self.checkpoint = Checkpoint(0, 0, 0)
        self._picture, self._sound, self._overwrite = picture, sound, overwrite
        self._segment: Segment | None = None
        self._pending = 0
        self._closed = False
        picture.coding.check_name(place.video)
        place.refuse_existing(overwrite)

    @classmethod
    def create(
        cls,
        path: Path | str | OutputPlace,
        height: int,
        width: int,
        audio: AudioSource | None = None,
        metadata: dict[str, str] | None = None,
        overwrite: bool = False,
        rate: int = FRAMES_PER_SECOND,
        coding: Coding = USUAL_CODING,
    ) -> "VideoWriter":
        """Begin a video of `height` x `width` px (both even) at `rate` frames a second: `path`, a name that ends in the
        coding's suffix.

        `metadata` becomes the file's tags (ComfyUI's `prompt` and `workflow`). Neither the video nor an
        unfinished render of that name is overwritten unless `overwrite`. `OutputError` where that, the folder,
        the disk or a render at work prevents writing. An `OutputPlace` is one that the caller has made ready.
        """
        place = path if isinstance(path, OutputPlace) else OutputPlace(path)
        writer = cls(place, Picture(height, width, rate, coding), Sound.of(audio, coding), overwrite)
        place.acquire()
        try:
            if place is not path:
                place.refuse(False, overwrite)
                place.clear_ours()
            writer._file = place.create_partial()
            writer._append(writer._header(metadata or {}))
        except BaseException:
            place.release()
            raise
        return writer

    @classmethod
    def resume(
        cls,
        path: Path | str | OutputPlace,
        checkpoint: Checkpoint,
        height: int,
        width: int,
        audio: AudioSource | None = None,
        overwrite: bool = False,
        rate: int = FRAMES_PER_SECOND,
        coding: Coding = USUAL_CODING,
    ) -> "VideoWriter":
        """Cut the partial video of `path` back to `checkpoint` and go on; its metadata stays.

        `ResumeError` when there is none, it is shorter than the checkpoint, or of another size or sound; `OutputError`
        when it is being written.
        """
        place = path if isinstance(path, OutputPlace) else OutputPlace(path)
        writer = cls(place, Picture(height, width, rate, coding), Sound.of(audio, coding), overwrite)
        if not writer.partial.is_file():
            raise ResumeError(f"{writer.partial} does not exist; nothing to resume: {ANEW}")
        place.acquire()
        try:
            writer._file = place.open_partial()
            writer._go_on(checkpoint)
        except BaseException:
            place.release()
            raise
        return writer

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Cut the open partial back to `checkpoint`, where it is what the checkpoint says."""
        size = self._file.seek(0, io.SEEK_END)
        if size < checkpoint.bytes:
            raise ResumeError(f"{self.partial} has {size} bytes; its checkpoint needs {checkpoint.bytes}: {ANEW}")
        self._file.seek(0)
        if tracks(read_header(self._file)) != tracks(self._header({})):
            raise ResumeError(
                f"{self.partial} has another size, sound format or encoder version than this render; "
                f"the same are needed: {ANEW}"
            )
        chunks = count_fragments(self._file, checkpoint.bytes)
        if chunks != checkpoint.chunks:
            raise ResumeError(f"{self.partial} is damaged: it does not hold {checkpoint.chunks} whole chunks; {ANEW}")
        with writing(self.partial):
            self._file.truncate(checkpoint.bytes)
            self._file.seek(checkpoint.bytes)
        self.checkpoint = checkpoint

    def write(self, frames: np.ndarray | Tensor) -> None:
        """Encode the chunk's next frames: uint8 [n, height, width, 3] RGB, on the CPU."""
        images = np.asarray(frames)
        size = (self._picture.height, self._picture.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise InputError(f"frames {images.dtype} {images.shape}; uint8 [n, {size[0]}, {size[1]}, 3] is needed")
        with writing(self.partial):
            if self._segment is None:
                self._segment = Segment(self._picture, self._sound, {}, self.checkpoint.chunks + 1)
            for image in images:
                self._segment.add_image(image, self.checkpoint.frames + self._pending)
                self._pending += 1

    def end_chunk(self) -> Checkpoint:
        """Put the chunk's picture and sound on disk, to survive a power cut; returns where to resume after it."""
        assert self._segment is not None, "a chunk needs at least one frame"
        first, last = self.checkpoint.frames, self.checkpoint.frames + self._pending
        self._segment.add_sound(first, last)
        self._append(fragment(self._segment.close()))
        self._segment, self._pending = None, 0
        self.checkpoint = self.checkpoint._replace(frames=last, chunks=self.checkpoint.chunks + 1)
        return self.checkpoint

    def finish(self, on_packet: Callable[[], None] = ignore_packet) -> Path:
        """Close the video under its final name; the partial one is gone only when that is safely on disk.

        `on_packet` is called as each packet is copied; what it raises stops the copy, and leaves the partial video.
        Once the video has its name, nothing is raised any more.
        """
        if self._segment is not None:
            self.end_chunk()
        if not self.checkpoint.frames:
            raise InputError(f"no frames for {self.path}; at least one is needed: write some before finishing")
        self.place.refuse_existing(self._overwrite)
        with (
            writing(self.path, kept=f"; the video so far is {self.partial}"),
            self.place.finishing(self._overwrite) as temporary,
        ):
            seconds = Fraction(self.checkpoint.frames, self._picture.rate)
            try:
                _copy_packets(self.partial, temporary, seconds, on_packet)
            except FFmpegError as error:  # not all of them are of the system
                raise OSError(error.errno, error.strerror) from error
        self._file.close()
        self.place.clear()
        self._release()
        return self.path

    def close(self) -> Path | None:
        """Stop without finishing. The partial video stays and plays up to its last whole chunk; returns its path.

        Returns None, and leaves no file, when no chunk was completed. May be called again, and after `finish`.
        """
        self._segment, self._pending = None, 0
        self._file.close()
        if not self._closed and not self.checkpoint.frames:
            self.place.clear()
        self._release()
        return self.partial if self.partial.exists() else None

    def _release(self) -> None:
        if not self._closed:
            self._closed = True
            self.place.release()

    def _header(self, metadata: dict[str, str]) -> bytes:
        """The file's start, for which an encoder is opened."""
        with writing(self.partial):
            return header(self._picture, self._sound, metadata)

    def _append(self, data: bytes) -> None:
        """Write and fsync `data`; on failure the file is as before."""
        with writing(self.partial):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self.checkpoint.bytes)
                raise
        self.checkpoint = self.checkpoint._replace(bytes=self.checkpoint.bytes + len(data))


def last_frames(path: Path, count: int) -> Tensor:
    """The last frames of a video of ours, uint8 [n,H,W,3]: `count`, or all where it has fewer."""
    with av.open(address(path)) as container:
        video = container.streams.video[0]
        assert video.duration is not None and video.average_rate and video.time_base
        container.seek(max(0, video.duration - round(count / video.average_rate / video.time_base)), stream=video)
        kept = deque((frame.to_ndarray(format="rgb24") for frame in container.decode(video)), maxlen=count)
    return torch.from_numpy(np.stack(kept))


def _copy_packets(source: Path, target: Path, seconds: Fraction, on_packet: Callable[[], None]) -> None:
    """Copy a fragmented file into an ordinary one, the last packet of its sound cut to the picture's `seconds`."""
    options = {"movflags": "faststart+use_metadata_tags"}
    with (
        av.open(address(source)) as partial,
        av.open(address(target), "w", format=source.suffix[1:], container_options=options) as finished,
    ):
        finished.metadata.update({key: text for key, text in partial.metadata.items() if key not in CONTAINER_TAGS})
        streams = {stream.index: finished.add_stream_from_template(stream, opaque=True) for stream in partial.streams}
        for stream in partial.streams.video:  # its tag alone is not copied: H.265 would not play everywhere
            streams[stream.index].codec_context.codec_tag = stream.codec_context.codec_tag
        for packet in partial.demux():
            on_packet()
            if packet.dts is None:
                continue
            end = seconds / packet.time_base
            packet.duration = min(packet.duration, max(1, round(end) - packet.pts))
            packet.stream = streams[packet.stream.index]
            finished.mux(packet)
