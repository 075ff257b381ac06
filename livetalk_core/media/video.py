"""H.264 and AAC into an MP4 that grows chunk by chunk and survives a kill.

While it grows, the video is `name.partial.mp4`: a header, then one fragment (moof and mdat) a chunk, appended whole
and fsynced by `end_chunk`. A fragment depends on its frames, its place and the sound alone (see `segment`), so a
file that was cut back to a checkpoint and continued equals, byte for byte, one that never stopped.

`finish` copies the packets into an ordinary MP4 with its index in front, under the final name, and only then
removes the partial one. Until that copy is done, it needs as much disk again as the video has; it can be stopped at
any packet, and the partial video stays as it was.

From `create` or `resume` until `finish` or `close` the partial file is locked, so that two renders never write one
video (where the system has such locks: not on Windows).
"""

import errno
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from ..errors import InputError, OutputError, ResumeError
from ..files import sync
from ..shapes import FRAMES_PER_SECOND
from .audio import AudioSource
from .segment import Picture, Segment, Sound, fragment, header, read_header, tracks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
ADVICE = {
    errno.ENOSPC: "free some space, then resume",
    errno.EDQUOT: "free some space, then resume",
    errno.EFBIG: "use a disk that takes larger files",
    errno.EACCES: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOENT: "create the folder first",
    errno.EEXIST: "resume that render, or allow overwriting",
}


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

    def __init__(self, path: Path, picture: Picture, sound: Sound | None, overwrite: bool) -> None:
        self.path, self.partial = path, partial_path(path)
        self.checkpoint = Checkpoint(0, 0, 0)
        self._picture, self._sound, self._overwrite = picture, sound, overwrite
        self._segment: Segment | None = None
        self._pending = 0
        self._refuse_existing()

    @classmethod
    def create(
        cls,
        path: Path | str,
        height: int,
        width: int,
        audio: AudioSource | None = None,
        metadata: dict[str, str] | None = None,
        overwrite: bool = False,
        rate: int = FRAMES_PER_SECOND,
    ) -> "VideoWriter":
        """Begin a video of `height` x `width` px (both even) at `rate` frames a second: `path`, a name in .mp4.

        `metadata` becomes the file's tags (ComfyUI's `prompt` and `workflow`). Neither the video nor an
        unfinished render of that name is overwritten unless `overwrite`. `OutputError` where that, the folder,
        the disk or a render at work prevents writing.
        """
        writer = cls(Path(path), Picture(height, width, rate), Sound.of(audio), overwrite)
        with _writing(writer.partial):
            if overwrite:
                writer.partial.touch()
            writer._file = _claimed(writer.partial, "r+b" if overwrite else "xb")
            writer._file.truncate()
        writer._append(header(writer._picture, writer._sound, metadata or {}))
        return writer

    @classmethod
    def resume(
        cls,
        path: Path | str,
        checkpoint: Checkpoint,
        height: int,
        width: int,
        audio: AudioSource | None = None,
        overwrite: bool = False,
        rate: int = FRAMES_PER_SECOND,
    ) -> "VideoWriter":
        """Cut the partial video of `path` back to `checkpoint` and go on; its metadata stays.

        `ResumeError` when there is none, it is shorter than the checkpoint, or of another size or sound; `OutputError`
        when it is being written.
        """
        writer = cls(Path(path), Picture(height, width, rate), Sound.of(audio), overwrite)
        if not writer.partial.is_file():
            raise ResumeError(f"{writer.partial} does not exist; nothing to resume: start the render anew")
        size = writer.partial.stat().st_size
        if size < checkpoint.bytes:
            raise ResumeError(
                f"{writer.partial} has {size} bytes; its checkpoint needs {checkpoint.bytes}: start the render anew"
            )
        with writer.partial.open("rb", buffering=0) as file:
            same = tracks(read_header(file)) == tracks(header(writer._picture, writer._sound, {}))
        if not same:
            raise ResumeError(
                f"{writer.partial} has another size, sound format or encoder version than this render; "
                "the same are needed: start the render anew"
            )
        with _writing(writer.partial):
            writer._file = _claimed(writer.partial, "r+b")
            writer._file.truncate(checkpoint.bytes)
            writer._file.seek(checkpoint.bytes)
        writer.checkpoint = checkpoint
        return writer

    def write(self, frames: np.ndarray | Tensor) -> None:
        """Encode the chunk's next frames: uint8 [n, height, width, 3] RGB, on the CPU."""
        images = np.asarray(frames)
        size = (self._picture.height, self._picture.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise InputError(f"frames {images.dtype} {images.shape}; uint8 [n, {size[0]}, {size[1]}, 3] is needed")
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
        """
        if self._segment is not None:
            self.end_chunk()
        if not self.checkpoint.frames:
            raise InputError(f"no frames for {self.path}; at least one is needed: write some before finishing")
        self._refuse_existing()
        whole = self.path.with_suffix(".finishing.mp4")
        with _writing(whole, f"; the video so far is {self.partial}"):
            try:
                seconds = Fraction(self.checkpoint.frames, self._picture.rate)
                _copy_packets(self.partial, whole, seconds, on_packet)
                sync(whole)
                whole.replace(self.path)
            finally:
                whole.unlink(missing_ok=True)
            sync(self.path.parent)
            self._file.close()
            self.partial.unlink()
        return self.path

    def close(self) -> Path | None:
        """Stop without finishing. The partial video stays and plays up to its last whole chunk; returns its path.

        Returns None, and leaves no file, when no chunk was completed. May be called again, and after `finish`.
        """
        self._segment, self._pending = None, 0
        self._file.close()
        if not self.checkpoint.frames:
            self.partial.unlink(missing_ok=True)
        return self.partial if self.partial.exists() else None

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self._overwrite:
            raise OutputError(f"{self.path} exists; it is not overwritten unasked: choose another name")

    def _append(self, data: bytes) -> None:
        """Write and fsync `data`; on failure the file is as before."""
        with _writing(self.partial):
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


def partial_path(path: Path | str) -> Path:
    """Where the video of `path` grows: `name.partial.mp4` for `name.mp4`."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"output {path}; a name that ends in .mp4 is needed: H.264 and AAC are written as MP4")
    return path.with_suffix(".partial.mp4")


def check_idle(partial: Path) -> None:
    """Raise `OutputError` where a render is writing this partial video, or it cannot be written."""
    with _writing(partial):
        _claimed(partial, "r+b").close()


def _claimed(partial: Path, mode: str) -> io.FileIO:
    """A partial video, opened and locked until it is closed."""
    file = io.FileIO(partial, mode)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(
            f"{partial} is being written by another render; choose another output name, or wait until it has ended"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def last_frames(path: Path, count: int) -> Tensor:
    """The last frames of a video of ours, uint8 [n,H,W,3]: `count`, or all where it has fewer."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.duration is not None and video.average_rate and video.time_base
        container.seek(max(0, video.duration - round(count / video.average_rate / video.time_base)), stream=video)
        kept = deque((frame.to_ndarray(format="rgb24") for frame in container.decode(video)), maxlen=count)
    return torch.from_numpy(np.stack(kept))


def _copy_packets(source: Path, target: Path, seconds: Fraction, on_packet: Callable[[], None]) -> None:
    """Copy a fragmented MP4 into an ordinary one, the last packet of its sound cut to the picture's `seconds`."""
    options = {"movflags": "faststart+use_metadata_tags"}
    with av.open(str(source)) as partial, av.open(str(target), "w", format="mp4", container_options=options) as whole:
        whole.metadata.update({key: text for key, text in partial.metadata.items() if key not in CONTAINER_TAGS})
        streams = {stream.index: whole.add_stream_from_template(stream, opaque=True) for stream in partial.streams}
        for packet in partial.demux():
            on_packet()
            if packet.dts is None:
                continue
            end = seconds / packet.time_base
            packet.duration = min(packet.duration, max(1, round(end) - packet.pts))
            packet.stream = streams[packet.stream.index]
            whole.mux(packet)


@contextmanager
def _writing(path: Path, kept: str = "") -> Iterator[None]:
    """What the disk refuses, as `OutputError`."""
    try:
        yield
    except (OSError, FFmpegError) as error:
        advice = ADVICE.get(error.errno or 0, "check the disk, then try again")
        raise OutputError(f"cannot write {path} ({error.strerror}): {advice}{kept}") from error
