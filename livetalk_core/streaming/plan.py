"""Which frames each chunk covers: every frame of the speech goes to the video exactly once."""

from typing import NamedTuple

from ..config import StreamConfig
from ..errors import InputError


class Chunk(NamedTuple):
    """One pass of the model over video frames [start, start + frames).

    Of these, frames [skip, skip + keep), counted from `start`, go to the video; those before repeat the chunk
    before, those after lie beyond the end of the speech.
    """

    index: int
    start: int
    frames: int
    skip: int
    keep: int

    @property
    def stop(self) -> int:
        """First video frame after the chunk."""
        return self.start + self.frames


class ChunkPlan(NamedTuple):
    """The chunks of a video of `total_frames`, worked out on demand: a plan of any length takes no memory.

    `live` is the reference's streaming mode: every chunk, the first too, adds `frame_num - motion_frames` frames
    and starts `motion_frames` earlier. Otherwise the first chunk gives all its frames.
    """

    total_frames: int
    frame_num: int
    motion_frames: int
    live: bool = False

    @classmethod
    def of(cls, total_frames: int, stream: StreamConfig, live: bool = False) -> "ChunkPlan":
        """The plan for `total_frames` (at least 1) with the chunk sizes of `stream`."""
        if total_frames < 1:
            raise InputError(f"{total_frames} frames to make; at least 1 is needed")
        return cls(total_frames, stream.frame_num, stream.motion_frames, live)

    @property
    def new_frames(self) -> int:
        """Frames that a chunk after the first adds."""
        return self.frame_num - self.motion_frames

    @property
    def _lead(self) -> int:
        """Frames by which the grid of chunks is ahead of the video."""
        return self.motion_frames if self.live else 0

    @property
    def count(self) -> int:
        """Number of chunks."""
        rest = self.total_frames + self._lead - self.frame_num
        return 1 + max(0, -(-rest // self.new_frames))

    @property
    def end(self) -> int:
        """First frame after the last chunk: speech is padded with silence up to here."""
        return self.chunk(self.count - 1).stop

    def index_at(self, frame: int) -> int:
        """Index of the chunk that gives video frame `frame`; beyond the end, `count`."""
        if frame >= self.total_frames:
            return self.count
        return max(0, frame + self._lead - self.motion_frames) // self.new_frames

    def chunk(self, index: int) -> Chunk:
        """Chunk `index` in 0..count-1."""
        if not 0 <= index < self.count:
            raise InputError(f"chunk {index} of a plan of {self.count} chunks (0..{self.count - 1})")
        start = index * self.new_frames - self._lead
        skip = self.motion_frames if index or self.live else 0
        return Chunk(index, start, self.frame_num, skip, min(self.frame_num, self.total_frames - start) - skip)
