"""A session to a file: sound and picture in step, playable while it grows, taken up again after a crash."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import ResumeError
from ..media.audio import AudioSource
from ..media.coding import USUAL_CODING, Coding
from ..media.place import OutputPlace, unreadable
from ..media.video import Checkpoint, VideoWriter, ignore_packet
from .finite import IMAGES, Watch
from .session import ChunkEnd, Frames, Session
from .side_thread import SideThread
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

    `inputs` names everything the picture depends on (a resume is refused where one differs), `means` what else it is
    computed with (a resume says where that differs); `metadata` goes into the file's container. With `resume`, an
    unfinished render of the same name is taken up; without, it is refused rather than overwritten. `upscaler` enlarges
    the frames, those of the events too. `on_packet` is called all along the last step, the copy to the finished file
    (see `VideoWriter.finish`). `coding` is how the picture is encoded; a resume with another one is refused.
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
    means: Mapping[str, Any] = field(default_factory=dict)
    coding: Coding = USUAL_CODING

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a resumed render must have as it was."""
        return {**self.inputs, **self.coding.identity}

    def run(self) -> Generator[Frames | ChunkEnd, None, None]:
        """Render to the end. Yields frames as they come, a chunk's end once it is on disk; may be closed at any time.

        Frames are copied from their device and encoded on another thread while the next ones are computed, and there a
        chunk is brought to the disk. Where it
        stops early, the partial file and its sidecar stay, and the partial plays.
        """
        place = OutputPlace(self.output)
        with place.held():
            yield from self._run(Sidecar(place, self.identity, self.means))

    def _run(self, sidecar: Sidecar) -> Generator[Frames | ChunkEnd, None, None]:
        writer, state = self._open(sidecar)
        side_thread = SideThread(WAITING_GROUPS)
        try:
            yield from self._written(writer, sidecar, side_thread, state)
            writer.finish(self.on_packet)
        finally:
            side_thread.close()
            writer.close()

    def _written(
        self, writer: VideoWriter, sidecar: Sidecar, side_thread: SideThread, state: StreamState
    ) -> Generator[Frames | ChunkEnd, None, None]:
        """The events, each behind what it says: frames handed to the other thread, a chunk's end on the disk.

        Where the session works ahead, on a GPU, the next chunk is begun before the last one is waited for: the device
        would be idle while its sound and picture are closed and brought to the disk.
        """
        ended: ChunkEnd | None = None
        try:
            for event in self._events(state):
                if ended is not None:
                    side_thread.drain()
                    yield ended
                    ended = None
                if isinstance(event, Frames):
                    side_thread.submit(_writing(writer, event))
                    yield event
                    continue
                if self.session.ahead:
                    side_thread.submit(partial(_end, writer, sidecar, event.state))
                    ended = event
                    continue
                side_thread.drain()
                _end(writer, sidecar, event.state)
                yield event
        finally:
            if ended is not None:  # also where the next chunk fails: the one before it is whole
                side_thread.drain()
        if ended is not None:
            yield ended

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
        place, scale = sidecar.place, 1 if self.upscaler is None else self.upscaler.scale
        height, width = (scale * side for side in self.session.avatar.size)
        place.refuse(self.resume, self.overwrite)
        place.sweep()
        if self.resume and sidecar.exists and place.partial.exists():
            state, checkpoint = sidecar.load()
            self._check_fits(sidecar, state, checkpoint)
            sidecar.say_what_differs()
            writer = VideoWriter.resume(
                place, checkpoint, height, width, self.sound, self.overwrite, coding=self.coding
            )
            return writer, state
        place.clear_ours()
        sidecar.begin(self.seed)
        try:
            writer = VideoWriter.create(
                place, height, width, self.sound, dict(self.metadata), self.overwrite, coding=self.coding
            )
        except BaseException:
            place.clear_ours()
            raise
        return writer, self.session.start(self.seed)

    def _check_fits(self, sidecar: Sidecar, state: StreamState, checkpoint: Checkpoint) -> None:
        """Raise `ResumeError` where what was saved cannot be of this stream, whatever its inputs say."""
        plan, first = self.session.plan, self.session.start(self.seed).motion
        shapes = (state.motion.shape[0], *state.motion.shape[2:]), (first.shape[0], *first.shape[2:])
        if state.next_chunk > plan.count or shapes[0] != shapes[1]:
            raise ResumeError(unreadable(sidecar.place.description, "it is of another stream"))
        last = plan.chunk(state.next_chunk - 1)
        if checkpoint.frames != last.start + last.skip + last.keep:
            raise ResumeError(unreadable(sidecar.place.description, "its frames are not those of its chunks"))


def _end(writer: VideoWriter, sidecar: Sidecar, state: StreamState) -> None:
    """Bring a chunk to the disk, and then where the next one begins."""
    sidecar.save(state, writer.end_chunk())


def _writing(writer: VideoWriter, event: Frames) -> Callable[[], None]:
    """What is to be done on the other thread.

    Frames on the CPU are turned into pixels here: PyTorch gives each thread that computes a team of its own, and two
    teams on the same cores hold each other up (whole renders took 1.3 times longer).
    """
    if event.frames.device.type == "cpu":
        return partial(writer.write, event.pixels)
    return lambda: writer.write(event.pixels)
