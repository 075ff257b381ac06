"""What travels along LiveTalk's own links: an audio encoder, a speech, an avatar, a stream's state."""

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import StreamConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import AudioSource
from ..livetalk_core.shapes import frames_of_samples
from ..livetalk_core.streaming.avatar import Avatar
from ..livetalk_core.streaming.features import SpeechFeatures, speech_features
from ..livetalk_core.streaming.plan import ChunkPlan
from ..livetalk_core.streaming.state import StreamState
from . import host

AudioEncoderSocket = io.Custom("LIVETALK_AUDIO_ENCODER")
SpeechSocket = io.Custom("LIVETALK_SPEECH")
AvatarSocket = io.Custom("LIVETALK_AVATAR")
StateSocket = io.Custom("LIVETALK_STATE")


@dataclass(frozen=True, eq=False)
class HostedAudioEncoder:
    """The core's audio encoder, moved between devices by ComfyUI. Gives `blocks` x `channels` features a frame."""

    patcher: Any
    lufs: float
    blocks: int
    channels: int

    def embed(self, waveform: Tensor, frames: int) -> Tensor:
        """Standardised 16 kHz sound [S] -> [frames, blocks, channels] at 25 per second, on the CPU."""
        return host.run_on_device(self.patcher, lambda model, device: model.embed(waveform.to(device), frames))


@dataclass(frozen=True, eq=False)
class Speech:
    """A sound and how it is to be heard; its features are encoded as chunks need them."""

    source: AudioSource
    encoder: HostedAudioEncoder
    mode: str
    _features: dict[ChunkPlan, SpeechFeatures] = field(default_factory=dict)

    def plan(self, stream: StreamConfig) -> ChunkPlan:
        """The chunks of the video that this speech asks for: its length, rounded up to a frame."""
        frames = frames_of_samples(self.source.samples, self.source.sample_rate)
        return ChunkPlan.of(frames, stream, live=self.mode == "stream")

    def features(self, plan: ChunkPlan) -> SpeechFeatures:
        """The features for a plan, kept so that chained chunks measure and encode the sound once."""
        if plan not in self._features:
            self._features[plan] = speech_features(self.source, self.encoder, plan, self.mode)
        return self._features[plan]


@dataclass(frozen=True, eq=False)
class ChunkState:
    """A stream between two nodes: where it stands, and of whom and what it is. `sampled`: a decode comes next."""

    avatar: Avatar
    speech: Speech
    plan: ChunkPlan
    stream: StreamConfig
    state: StreamState
    sampled: bool


def check_fit(config: TransformerConfig, avatar: Avatar, speech: Speech) -> None:
    """Raise `InputError` unless avatar and speech were made with encoders of this model's widths."""
    text, clip = avatar.text.shape[-1], avatar.clip.shape[-1]
    if (text, clip) != (config.text_dim, config.clip_dim):
        raise InputError(
            f"the avatar's prompt and image tokens are {text} and {clip} wide; this model needs {config.text_dim} and "
            f"{config.clip_dim}: {_encoders_for(config)}"
        )
    encoder = speech.encoder
    if (encoder.blocks, encoder.channels) != (config.audio_blocks, config.audio_channels):
        raise InputError(
            f"the speech has {encoder.blocks} layers of {encoder.channels} features; this model needs "
            f"{config.audio_blocks} of {config.audio_channels}: encode it with the audio encoder made for this model"
        )


def _encoders_for(config: TransformerConfig) -> str:
    if config.text_dim == TransformerConfig.text_dim:
        return (
            "connect to LiveTalk Avatar a CLIP Text Encode of umt5_xxl (Load CLIP, type wan) and a Load CLIP Vision "
            "of clip_vision_h"
        )
    return "leave the avatar's clip_vision and conditioning unconnected, so that the embedded encoders are used"
