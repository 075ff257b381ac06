"""The loop: for each chunk, noise -> latent -> frames -> colour -> tail re-encoded."""

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..config import StreamConfig
from ..models.color import ColorStatistics, match_color
from ..sampling.chunk import NoiseSource, seeded_noise
from ..shapes import VideoShape
from . import joining
from .avatar import Avatar, encode_for, posterior_noise
from .correction import Corrector, bent
from .engine import Engine
from .finite import COLORS, END, FRAMES, LATENTS, SOUND, START, Watch
from .plan import Chunk, ChunkPlan
from .state import StreamState


class Features(Protocol):
    """Gives the audio windows of a chunk: [speakers, frames, 5, blocks, channels]."""

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """Windows of the chunk's frames, encoded when asked for."""
        ...


class Frames(NamedTuple):
    """Finished frames [3,n,H,W] in -1..1, the first of which is frame `first` of the video; or as pixels, uint8."""

    chunk: Chunk
    first: int
    frames: Tensor

    @property
    def pixels(self) -> Tensor:
        """The frames as [n,H,W,3] uint8 on the CPU."""
        if self.frames.dtype == torch.uint8:
            return self.frames.movedim(0, -1).contiguous()
        rounded = (self.frames + 1).mul_(127.5).round_().clamp_(0, 255)
        return rounded.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu()


class ChunkEnd(NamedTuple):
    """A chunk is complete; `state` is what the next one starts from."""

    chunk: Chunk
    state: StreamState


class ChunkInputs(NamedTuple):
    """What a chunk needs that no other chunk decides: windows of its sound, and its noise."""

    chunk: Chunk
    audio: Tensor
    noise: Tensor


class Order(NamedTuple):
    """What one chunk is made from. `audio` are the windows of its sound [P,frames,W,blocks,channels].

    `new_prompt`: the avatar's text holds from this chunk on.
    """

    avatar: Avatar
    audio: Tensor
    state: StreamState
    plan: ChunkPlan
    stream: StreamConfig
    new_prompt: bool = False


@runtime_checkable
class ChunkEngine(Protocol):
    """An engine that computes whole chunks elsewhere, and sends no more of them than their pixels."""

    def chunk(self, order: Order, on_step: Callable[[int], None]) -> Generator[Frames, None, StreamState]:
        """The chunk's own frames as pixels; returns the state after it. Noise is that of the state's seed."""
        ...


def ignore_step(_: int) -> None:
    """The step callback of a caller that does not watch."""


def encode_revised(engine: Engine, frames: Tensor, revisions: int) -> Tensor:
    """The latents [16,k,h,w] of a chunk's last frames [3,T,H,W], revised to decode to those frames more nearly.

    A VAE's two directions are not quite each other's inverse, and a stream goes both ways with every chunk. Each
    revision finds how far the latents are from those of their own decoded frames, and takes it off.
    """
    latent = plain = engine.encode(frames)
    for _ in range(revisions):
        latent = latent + plain - engine.encode(torch.cat([*engine.decode(latent)], dim=1))
    return latent


@dataclass
class Session:
    """One stream: an avatar, its speech and the engine that computes it.

    `prompts` maps a chunk index to text tokens [L,text_dim] that hold from that chunk on. `noise` makes a noise
    source of a seed, and so does `posterior` for the draws of motion latents. `on_step` is called after each denoising
    step. With `ahead`, `run` has the next chunk's features and noise computed on another thread meanwhile: nothing else
    may use the features or their sound then. For GPUs; on a CPU the threads would be in each other's way. `before`
    [3,motion_frames,H,W] in -1..1 are frames that the stream goes on from, of another stream or any clip; the plan is
    then `live`, so that its first chunk repeats them. `match` gives frames the portrait's colours. `pixels` says
    that of the frames no more than these is read: an engine of other processes then keeps all else there.
    """

    engine: Engine
    avatar: Avatar
    features: Features
    plan: ChunkPlan
    stream: StreamConfig
    prompts: Mapping[int, Tensor] = field(default_factory=dict)
    noise: Callable[[int], NoiseSource] = seeded_noise
    on_step: Callable[[int], None] = ignore_step
    ahead: bool = False
    before: Tensor | None = None
    posterior: Callable[[int], NoiseSource] = posterior_noise
    pixels: bool = False
    match: Callable[[Tensor, ColorStatistics, float], Tensor] = match_color

    def __post_init__(self) -> None:
        self._colors = ColorStatistics.of(self.avatar.reference.float().cpu())

    def start(self, seed: int) -> StreamState:
        """The state before the first chunk."""
        if self.before is None:
            return StreamState(0, seed, self.avatar.first_motion(self.stream.geometry))
        shown = self.before[:, -1:].cpu() if self.stream.joined else None
        return StreamState(0, seed, self.encode(self.before, seed, 0).cpu(), shown=shown)

    def run(self, state: StreamState) -> Generator[Frames | ChunkEnd, None, None]:
        """All chunks from `state` on: frames as they are decoded, and a `ChunkEnd` after each chunk."""
        inputs = self._inputs_ahead(state) if self.ahead else self._all_inputs(state)
        with closing(inputs):
            for ready in inputs:
                index = ready.chunk.index
                if (engine := self._chunk_engine) is not None:
                    prompted = index in self.prompts
                    order = Order(self._avatar_at(index), ready.audio, state, self.plan, self.stream, prompted)
                    state = yield from engine.chunk(order, self.on_step)
                else:
                    watch = Watch(ready.chunk)
                    state = yield from self._decode(state, self._denoise(state, ready, watch), watch)
                yield ChunkEnd(ready.chunk, state)

    def sample(self, state: StreamState) -> Tensor:
        """The latent [C,F,h,w] of the next chunk, on the CPU."""
        inputs = self._inputs(state.seed, state.next_chunk)
        watch = Watch(inputs.chunk)
        (latent,) = watch.read(self._denoise(state, inputs, watch))
        return latent

    def _denoise(self, state: StreamState, inputs: ChunkInputs, watch: Watch) -> Tensor:
        avatar, motion = self._avatar_at(inputs.chunk.index), watch.see(START, state.motion)
        if self._corrector is not None:
            motion = self._corrector.motion(inputs.chunk.index, motion, state.review)
        audio = watch.see(SOUND, inputs.audio)
        return watch.see(LATENTS, self.engine.denoise(avatar, audio, motion, inputs.noise, self.on_step))

    @torch.inference_mode()
    def _inputs(self, seed: int, index: int) -> ChunkInputs:
        chunk = self.plan.chunk(index)
        noise = self._noise(seed, chunk) if self._chunk_engine is None else torch.empty(0)
        return ChunkInputs(chunk, self.features.for_chunk(chunk), noise)

    @property
    def _chunk_engine(self) -> ChunkEngine | None:
        """The engine, if it is to compute whole chunks: of noise that their seed tells, for a reader of pixels."""
        told = self.noise is seeded_noise and self.posterior is posterior_noise
        return self.engine if self.pixels and told and isinstance(self.engine, ChunkEngine) else None

    def _noise(self, seed: int, chunk: Chunk) -> Tensor:
        """What the chunk starts from, and what each step but the last adds: [steps,C,F,h,w]."""
        stream, geometry = self.stream, self.stream.geometry
        shape = (geometry.latent_channels, *VideoShape(chunk.frames, *self.avatar.size).latent(geometry))
        draw = partial(self.noise(seed), chunk.index)
        if stream.bridge:
            return torch.cat([self.avatar.latents(geometry)[None].float().cpu(), draw((stream.steps - 1, *shape))])
        drawn = stream.steps if stream.guidance is None else 1
        return draw((drawn, *shape)).expand(stream.steps, *shape)

    def encode(self, frames: Tensor, seed: int, index: int) -> Tensor:
        """The motion latents that chunk `index` starts from, of the frames [3,T,H,W] before it."""
        if self.stream.revisions:
            return encode_revised(self.engine, frames, self.stream.revisions)
        return encode_for(self.stream, self.engine.encode, frames, self.posterior(seed), index)

    def _all_inputs(self, state: StreamState) -> Generator[ChunkInputs, None, None]:
        for index in range(state.next_chunk, self.plan.count):
            yield self._inputs(state.seed, index)

    def _inputs_ahead(self, state: StreamState) -> Generator[ChunkInputs, None, None]:
        """As `_all_inputs`, each computed on a thread while the one before is in use."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._inputs, state.seed, state.next_chunk)
            for index in range(state.next_chunk, self.plan.count):
                ready = coming.result()
                if index + 1 < self.plan.count:
                    coming = pool.submit(self._inputs, state.seed, index + 1)
                yield ready

    def decode(
        self, state: StreamState, latent: Tensor, lead: int = 0, led: int = joining.FRAMES
    ) -> Generator[Frames, None, StreamState]:
        """The chunk's own frames, group by group, colour-matched; returns the state after it.

        `lead` asks for so many frames more before them, as far as the chunk repeats them from the chunk before. Where
        chunks are joined, the first `led` are led from the frame shown before.
        """
        watch = Watch(self.plan.chunk(state.next_chunk))
        return (yield from self._decode(state, watch.see(LATENTS, latent), watch, lead, led))

    def _decode(
        self, state: StreamState, latent: Tensor, watch: Watch, lead: int = 0, led: int = joining.FRAMES
    ) -> Generator[Frames, None, StreamState]:
        chunk = self.plan.chunk(state.next_chunk)
        begin = max(0, chunk.skip - lead)
        done, tail = 0, torch.empty(0)
        seam = joining.Seam(state.shown, chunk.skip - 1, led) if self.stream.joined else None
        for group in self.engine.decode(latent):
            frames = watch.see(COLORS, self._match_color(watch.see(FRAMES, group)))
            if seam is not None:
                frames = seam.close(frames, done)
            tail = (frames if not done else torch.cat([tail, frames], dim=1))[:, -self.stream.motion_frames :]
            first, last = max(begin, done), min(chunk.skip + chunk.keep, done + frames.shape[1])
            if first < last:
                yield Frames(chunk, chunk.start + first, frames[:, first - done : last - done])
            done += frames.shape[1]
        parts = self._handed_on(tail, state)
        watch.see(END, parts["motion"])
        kept = dict(zip(parts, watch.read(*parts.values()), strict=True))
        review = self._review(state, kept["motion"], kept["like"]) if "like" in kept else None
        return StreamState(chunk.index + 1, state.seed, kept["motion"], review, kept.get("shown"))

    def _handed_on(self, tail: Tensor, state: StreamState) -> dict[str, Tensor]:
        """What becomes of a chunk's last frames: their latents; the very last, where chunks are joined; and for
        retrospection the latents of the portrait held as that one is."""
        index, last = state.next_chunk + 1, tail[:, -1:]
        parts = {"motion": self.encode(tail, state.seed, index)}
        if self.stream.joined:
            parts["shown"] = last
        if self._corrector is not None:
            portrait = self.avatar.reference[0].to(last, non_blocking=True)
            held = bent(portrait, last).expand(-1, self.stream.motion_frames, -1, -1)
            parts["like"] = self.encode(held, state.seed, index)
        return parts

    def _review(self, state: StreamState, motion: Tensor, like: Tensor) -> Tensor:
        assert self._corrector is not None
        chunk = state.next_chunk
        return self._corrector.review(chunk, state.review, motion, like, new_prompt=chunk > 0 and chunk in self.prompts)

    @cached_property
    def _corrector(self) -> Corrector | None:
        """Reviews the stream against its portrait; none where correction is off."""
        if self.stream.correction is None:
            return None
        assert self.avatar.held is not None, "`prepare_avatar` made it"
        return Corrector.of(self.stream.correction, self.avatar.held.float().cpu(), self.stream.steps)

    def _avatar_at(self, index: int) -> Avatar:
        changes = [start for start in self.prompts if start <= index]
        return self.avatar.with_text(self.prompts[max(changes)]) if changes else self.avatar

    def _match_color(self, frames: Tensor) -> Tensor:
        self._colors = self._colors.to(frames.device)
        return self.match(frames[None], self._colors, self.stream.color_correction)[0]
