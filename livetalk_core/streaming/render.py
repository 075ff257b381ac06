"""A session to a file: sound and picture in step, playable while it grows, taken up again after a crash."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import OutputError
from ..files import check_place
from ..media.audio import AudioSource
from ..media.video import VideoWriter, check_idle, ignore_packet, partial_path
from .background import Background
from .finite import IMAGES, Watch
from .session import ChunkEnd, Frames, Session
from .sidecar import Sidecar
from .state import StreamState

WAITING_GROUPS = 4
"""Groups of frames that may wait to be encoded."""


class Upscaler(Protocol):
    """Enlarges finished frames on their way to the file; the next chunk starts from what they were before."""

    @property
    def scale(self) -> int:
        """How many times longer each side becomes."""
        ...

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames [3,n,H,W] in -1..1 -> [3,n,scale*H,scale*W]."""
        ...


@dataclass(frozen=True)
class Render:
    """What to render and where to.

    `inputs` names everything the frames depend on (a resume is refused where one differs); `metadata` goes into
    the file's container. With `resume`, an unfinished render of the same name is taken up; without, it is refused
    rather than overwritten. `upscaler` enlarges the frames, those of the events too. `on_packet` is called all along
    the last step, the copy to the finished file (see `VideoWriter.finish`).
    """

    session: Session
    output: Path
    seed: int
    sound: AudioSource | None
    inputs: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False
    upscaler: Upscaler | None = None
    on_packet: Callable[[], None] = ignore_packet

    def run(self) -> Generator[Frames | ChunkEnd, None, None]:
        """Render to the end. Yields frames as they come, a chunk's end once it is on disk; may be closed at any time.

        Frames are copied from their device and encoded on another thread while the next ones are computed. Where it
        stops early, the partial file and its sidecar stay, and the partial plays.
        """
        sidecar = Sidecar(self.output, self.inputs)
        writer, state = self._open(sidecar)
        background = Background(WAITING_GROUPS)
        try:
            for event in self._events(state):
                if isinstance(event, Frames):
                    background.submit(_writing(writer, event))
                else:
                    background.drain()
                    sidecar.save(event.state, writer.end_chunk())
                yield event
            writer.finish(self.on_packet)
            sidecar.remove()
        finally:
            background.close()
            writer.close()

    def _events(self, state: StreamState) -> Iterator[Frames | ChunkEnd]:
        """The session's, frames enlarged; a chunk whose enlarged frames are not finite does not end."""
        if self.upscaler is None:
            yield from self.session.run(state)
            return
        watch: Watch | None = None
        for event in self.session.run(state):
            watch = watch or Watch(event.chunk)
            if isinstance(event, Frames):
                event = event._replace(frames=watch.see(IMAGES, self.upscaler(event.frames)))
            else:
                watch.read()
                watch = None
            yield event

    def _open(self, sidecar: Sidecar) -> tuple[VideoWriter, StreamState]:
        scale = 1 if self.upscaler is None else self.upscaler.scale
        height, width = (scale * side for side in self.session.avatar.size)
        unfinished = partial_path(self.output)
        check_output(self.output, self.resume, self.overwrite)
        if self.resume and unfinished.exists() and sidecar.exists:
            state, checkpoint = sidecar.load()
            return VideoWriter.resume(self.output, checkpoint, height, width, self.sound, self.overwrite), state
        unfinished.unlink(missing_ok=True)
        sidecar.remove()
        writer = VideoWriter.create(
            self.output, height, width, self.sound, dict(self.metadata), overwrite=self.overwrite
        )
        return writer, self.session.start(self.seed)


def _writing(writer: VideoWriter, event: Frames) -> Callable[[], None]:
    """What is to be done on the other thread.

    Frames on the CPU are turned into pixels here: PyTorch gives each thread that computes a team of its own, and two
    teams on the same cores hold each other up (whole renders took 1.3 times longer).
    """
    if event.frames.device.type == "cpu":
        return partial(writer.write, event.pixels)
    return lambda: writer.write(event.pixels)


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Raise `OutputError` where a render could not begin: before anything is loaded or computed."""
    partial = partial_path(output)
    check_place(output)
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists; choose another name, or allow overwriting")
    if partial.exists():
        check_idle(partial)
    if partial.exists() and Sidecar(output, {}).exists and not (resume or overwrite):
        raise OutputError(
            f"{partial} is an unfinished render; resume it, choose another output name, or allow overwriting"
        )
