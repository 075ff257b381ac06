"""The engine's side of a live stream: chunks that begin wherever the stream was cut."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config import StreamConfig
from ..errors import InputError
from ..streaming.avatar import Avatar
from ..streaming.engine import Engine
from ..streaming.features import Encoder, LiveFeatures
from ..streaming.joining import FRAMES, FRAMES_INTO_SILENCE
from ..streaming.plan import Chunk, ChunkPlan
from ..streaming.render import Upscaler
from ..streaming.session import Frames, Session
from ..streaming.state import StreamState
from .heard import HeardSound
from .schedule import Order

ENDLESS = 2**62


@dataclass(frozen=True, eq=False)
class Cast:
    """Who talks, and what computes it.

    `stream` holds the chunk's length; `quick_frames` (4n+1, at most `stream.frame_num`) is that of the chunk after an
    interruption. `encode_prompt` turns a prompt into tokens [L,text_dim], where prompts may change: in another thread
    beside the engine, or with `encode_between` in the engine's own, between two chunks. `upscaler` enlarges what is
    shown; later chunks start from what it was before.
    """

    engine: Engine
    avatar: Avatar
    encoder: Encoder
    stream: StreamConfig
    seed: int = 0
    quick_frames: int | None = None
    encode_prompt: Callable[[str], Tensor] | None = None
    encode_between: bool = False
    upscaler: Upscaler | None = None

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of what is shown, in pixels."""
        scale = 1 if self.upscaler is None else self.upscaler.scale
        return scale * self.stream.height, scale * self.stream.width

    def shown(self, group: Frames) -> np.ndarray:
        """What is shown of a group of frames: uint8 [n,H,W,3]."""
        if self.upscaler is not None:
            group = group._replace(frames=self.upscaler(group.frames))
        return group.pixels.numpy()

    @property
    def quick(self) -> StreamConfig:
        """The stream of the chunk after an interruption."""
        return replace(self.stream, frame_num=self.quick_frames or self.stream.frame_num)


class LivePlan(ChunkPlan):
    """A plan without end, of which one chunk is known: the next, whose new frames begin at place `begin`."""

    begin: int = 0

    def chunk(self, index: int) -> Chunk:
        """The next chunk, whatever its index."""
        start = self.begin - self.motion_frames
        return Chunk(index, start, self.frame_num, self.motion_frames, self.new_frames)


class Performer:
    """Makes the chunks of one live stream. Not for several threads at once.

    `on_step` is called after each denoising step and may raise to stop the chunk.
    """

    def __init__(self, cast: Cast, on_step: Callable[[int], None]) -> None:
        self.cast, self._heard = cast, HeardSound()
        self._sessions = {stream.new_frames: self._session(stream, on_step) for stream in (cast.stream, cast.quick)}
        self._state = self._sessions[cast.stream.new_frames].start(cast.seed)
        self._end = 0

    def _session(self, stream: StreamConfig, on_step: Callable[[int], None]) -> Session:
        plan = LivePlan.of(ENDLESS, stream, live=True)
        features = LiveFeatures(self._heard, self.cast.encoder, plan)
        avatar = self.cast.avatar.for_chunks(stream, self.cast.engine.encode)
        return Session(self.cast.engine, avatar, features, plan, stream, on_step=on_step)

    def set_prompt(self, text: Tensor) -> None:
        """Tokens [L,text_dim] of the prompt from the next chunk on."""
        for session in self._sessions.values():
            session.avatar = session.avatar.with_text(text)
            session.prompts = {self._state.next_chunk: text}

    def make(self, order: Order, last: Sequence[Tensor], sound: np.ndarray) -> Generator[Frames, None, None]:
        """The new frames of a chunk, as they are decoded, to `sound` [frames*640].

        `last` are the frames [3,1,H,W] before it, the newest last: encoded again unless the chunk goes on where the one
        before ended. The generator may be closed, or `on_step` raise: the next chunk can begin where that left off.
        """
        session = self._sessions[order.frames]
        assert isinstance(session.plan, LivePlan)
        session.plan.begin = order.begin
        led = FRAMES if order.speaks or order.begin == self._end else FRAMES_INTO_SILENCE
        state = self._state_at(session, order.begin, last)
        self._end, self._state = -1, replace(state, next_chunk=state.next_chunk + 1)
        self._heard.go_on(order.begin, sound)
        ending = _Ending()
        with closing(ending.of(session.decode(state, session.sample(state), led=led))) as groups:
            yield from groups
        self._end, self._state = order.begin + order.frames, ending.state

    def _state_at(self, session: Session, begin: int, last: Sequence[Tensor]) -> StreamState:
        """The state before the chunk at `begin`: known at the last one's end, made of what was shown elsewhere."""
        if begin == self._end:
            return self._state
        if not last:  # cut before anything was shown
            return replace(self._state, motion=self.cast.avatar.first_motion(self.cast.stream.geometry), shown=None)
        missing = self.cast.stream.motion_frames - len(last)
        frames = torch.cat([*[last[0]] * missing, *last], dim=1)
        shown = frames[:, -1:].cpu() if session.stream.joined else None
        motion = session.encode(frames, self._state.seed, self._state.next_chunk).cpu()
        return replace(self._state, motion=motion, shown=shown)


class _Ending:
    """Keeps what a session's `decode` returns, and passes on its frames alone."""

    state: StreamState

    def of(self, groups: Generator[Frames, None, StreamState]) -> Generator[Frames, None, None]:
        self.state = yield from groups


def check_chunk(frames: int, stream: StreamConfig) -> StreamConfig:
    """`stream` with chunks of `frames`; `InputError` where they are longer than the weights were made for."""
    if frames > stream.frame_num:
        raise InputError(
            f"chunks of {frames} frames; these weights were made for {stream.frame_num}: choose that or fewer"
        )
    return replace(stream, frame_num=frames)
