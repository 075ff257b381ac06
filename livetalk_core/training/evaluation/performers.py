"""Who performs for the measurer: a model through an engine, or the generator itself as the bound from above.

A performer makes the session of a subject; anything that does so can be measured.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...checkpoints.model import Model
from ...config import DEFAULT_PROMPT, StreamConfig
from ...media.audio import TensorAudio
from ...models.codec import Codec
from ...shapes import SAMPLE_RATE
from ...streaming.avatar import Avatar, prepare_avatar
from ...streaming.engine import Engine, LocalEngine, OnStep
from ...streaming.features import speech_features
from ...streaming.plan import Chunk, ChunkPlan
from ...streaming.session import Session
from .subjects import Subject

QUIET = 0.1
"""Standardised sound times this lies within -1..1; the model measures its loudness anyway."""


class Performer(Protocol):
    """Anything that can be measured. `stream` says how it cuts the video into chunks."""

    stream: StreamConfig

    def session(self, subject: Subject) -> Session:
        """The stream in which it plays `subject`."""
        ...


@dataclass
class ModelPerformer:
    """A model whose chunks an engine computes."""

    model: Model
    engine: Engine
    stream: StreamConfig

    @torch.inference_mode()
    def session(self, subject: Subject) -> Session:
        """See `Performer`."""
        plan = ChunkPlan.of(subject.frames, self.stream)
        text, *_ = self.model.encode_texts(DEFAULT_PROMPT)
        clip = self.model.encode_image(subject.portrait)
        avatar = prepare_avatar(subject.portrait, clip, text, self.engine.encode, self.stream)
        sound = TensorAudio(subject.take.sound[None] * QUIET, SAMPLE_RATE)
        features = speech_features(sound, self.model.audio_encoder, plan, "window")
        return Session(self.engine, avatar, features, plan, self.stream)


class _FrameNumbers:
    """In place of audio windows: which frames the chunk shows."""

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """[frames]."""
        return torch.arange(chunk.start, chunk.stop)


class _DrawnEngine(LocalEngine):
    """An engine whose chunks are the drawn frames, encoded: what a perfect transformer would give this VAE."""

    def __init__(self, vae: Codec, subject: Subject) -> None:
        self.vae, self.subject, self.device = vae, subject, torch.device("cpu")

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`; `audio` holds frame numbers."""
        return self.encode(self.subject.drawn(audio.clamp(0, self.subject.frames - 1)))


@dataclass
class DrawnPerformer:
    """The generator's own frames, cut into chunks, through the VAE and the colour step."""

    vae: Codec
    stream: StreamConfig

    def session(self, subject: Subject) -> Session:
        """See `Performer`."""
        engine = _DrawnEngine(self.vae, subject)
        avatar = prepare_avatar(subject.portrait, torch.empty(0), torch.empty(0), engine.encode, self.stream)
        return Session(engine, avatar, _FrameNumbers(), ChunkPlan.of(subject.frames, self.stream), self.stream)
