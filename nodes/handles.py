"""What travels along LiveTalk's own links."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import CorrectionConfig, StreamConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import AudioSource, TensorAudio
from ..livetalk_core.presets import member_of
from ..livetalk_core.shapes import FRAMES_PER_SECOND, LTX, SAMPLE_RATE, Geometry, frames_of_samples, heard_samples
from ..livetalk_core.streaming.avatar import Avatar, Pictured, prepare_avatar
from ..livetalk_core.streaming.features import SpeakersFeatures, SpeechFeatures, speech_features
from ..livetalk_core.streaming.plan import ChunkPlan
from ..livetalk_core.streaming.state import StreamState
from . import host

AudioEncoderSocket = io.Custom("LIVETALK_AUDIO_ENCODER")
SpeechSocket = io.Custom("LIVETALK_SPEECH")
AvatarSocket = io.Custom("LIVETALK_AVATAR")
PromptsSocket = io.Custom("LIVETALK_PROMPTS")
CorrectionSocket = io.Custom("LIVETALK_CORRECTION")
StateSocket = io.Custom("LIVETALK_STATE")
JobSocket = io.Custom("LIVETALK_JOB")


@dataclass(frozen=True, eq=False)
class HostedAudioEncoder:
    """The core's audio encoder, moved between devices by ComfyUI. Gives `blocks` x `channels` features a frame.

    `weights` tells them from others.
    """

    patcher: Any
    lufs: float | None
    blocks: int
    channels: int
    weights: str

    def for_model(self, config: TransformerConfig) -> "HostedAudioEncoder":
        """The same, for the loudness that this model's member of the family was made for."""
        return replace(self, lufs=member_of(config).audio.lufs)

    def embed(self, waveform: Tensor, frames: int) -> Tensor:
        """Standardised 16 kHz sound [S] -> [frames, blocks, channels] at 25 per second, on the CPU."""
        return host.run_on_device(self.patcher, lambda model, device: model.embed(waveform.to(device), frames))


@dataclass(frozen=True, eq=False)
class Speech:
    """What is said: the voice of each speaker, and `source`, the sound that the video gets.

    Features are encoded as chunks need them. `offset`: samples at 16 kHz by which the lips are ahead of the sound.
    """

    source: AudioSource
    voices: tuple[AudioSource, ...]
    encoder: HostedAudioEncoder
    mode: str
    offset: int = 0
    _features: dict[tuple[ChunkPlan, bool, float | None], SpeechFeatures | SpeakersFeatures] = field(
        default_factory=dict
    )

    @property
    def fingerprint(self) -> str:
        """Identifies who says what, and how it is heard."""
        voices = " + ".join(voice.fingerprint for voice in self.voices)
        moved = f", lips {self.offset} samples ahead" if self.offset else ""
        return f"{voices}, {self.mode}, heard by {self.encoder.weights}{moved}"

    def plan(self, stream: StreamConfig, goes_on: bool = False) -> ChunkPlan:
        """The chunks of the video that this speech asks for: its length, rounded up to a frame.

        `goes_on`: the first one too repeats frames that come before it.
        """
        frames = frames_of_samples(self.source.samples, self.source.sample_rate)
        return ChunkPlan.of(frames, stream, live=goes_on or self.mode == "stream")

    def for_model(self, config: TransformerConfig) -> "Speech":
        """The same, as loud as this model's member of the family wants it."""
        return replace(self, encoder=self.encoder.for_model(config))

    def features(self, plan: ChunkPlan, avatar: Avatar) -> SpeechFeatures | SpeakersFeatures:
        """The features for a plan, kept so that chained chunks measure and encode the sound once.

        Who is in the `avatar`'s picture beside one speaker hears silence.
        """
        key = plan, avatar.masks is not None, self.encoder.lufs
        if key not in self._features:
            heard = self.voices if avatar.masks is None or len(self.voices) > 1 else (*self.voices, self._silence)
            voices = [speech_features(voice, self.encoder, plan, self.mode, self.offset) for voice in heard]
            self._features[key] = voices[0] if len(voices) == 1 else SpeakersFeatures(voices)
        return self._features[key]

    @property
    def _silence(self) -> AudioSource:
        """As long as the speech; a single zero in memory."""
        samples = heard_samples(self.source.samples, self.source.sample_rate)
        return TensorAudio(torch.zeros(1, 1).expand(1, samples), SAMPLE_RATE)


@dataclass(frozen=True, eq=False)
class Portrait(Pictured):
    """Who speaks: what LiveTalk Avatar makes, for a model of any member of the family.

    What stands beside a chunk's latent is another in each member, so it is encoded when a model first asks for it.
    `reference` [1,3,1,H,W] in -1..1, `masks` [3,H,W] of two speakers; `clip` [1,S,clip_dim] and `text` [L,text_dim] for
    models that read them; `encode` is as in `prepare_avatar`, `vae` who does it; `encoders` tells their weights.
    """

    reference: Tensor
    clip: Tensor
    text: Tensor
    masks: Tensor | None
    vae: Any
    encode: Callable[..., Tensor]
    encoders: str
    _made: dict[tuple[Any, ...], Avatar] = field(default_factory=dict, init=False)

    def avatar(self, config: TransformerConfig, stream: StreamConfig) -> Avatar:
        """What a model of these widths needs of it for such a stream; kept."""
        key = (config.prompted, stream.frame_num, stream.motion_frames, stream.holds_portrait, stream.draws_latents)
        if key not in self._made:
            clip, text = (self.clip, self.text) if config.prompted else (None, None)
            made = prepare_avatar(self.reference, clip, text, self.encode, stream, self.masks)
            self._made[key] = replace(made, encoders=self.encoders)
        return self._made[key]


@dataclass(frozen=True, eq=False)
class Prompt:
    """Text tokens [L,text_dim] that hold from a second of the video on."""

    text: Tensor
    from_second: float

    def __post_init__(self) -> None:
        if not 0 <= self.from_second < math.inf:
            raise InputError(f"a prompt from second {self.from_second} on; needed is a number, 0 or more")


@dataclass(frozen=True)
class Correction:
    """How a stream is kept from drifting away from its portrait; `joins` is as in `StreamConfig`."""

    color: float = 1.0
    retrospection: CorrectionConfig | None = None
    joins: bool | None = None

    def stream(self, made_for: StreamConfig, avatar: Portrait, **settings: Any) -> StreamConfig:
        """The stream of an avatar with this correction and other `settings`; all else is as in `made_for`."""
        height, width = avatar.size
        kept = {"color_correction": self.color, "correction": self.retrospection, "joins": self.joins}
        return replace(made_for, height=height, width=width, **kept, **settings)


@dataclass(frozen=True, eq=False)
class ChunkState:
    """A stream between two nodes: where it stands, and of whom and what it is. `sampled`: a decode comes next.

    `made_with` names what the newest chunk depends on; `begun_with`, in a job that goes on, what its first ones did.

    `config` is the model's that sampled it last; None where none has yet.
    """

    avatar: Portrait
    speech: Speech
    plan: ChunkPlan
    stream: StreamConfig
    state: StreamState
    sampled: bool
    config: TransformerConfig | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)
    begun_with: Mapping[str, Any] = field(default_factory=dict)


def prompts_by_chunk(prompts: tuple[Prompt, ...], plan: ChunkPlan) -> Mapping[int, Tensor]:
    """Index of the chunk that each prompt begins with -> its text; one beyond the end is never used."""
    ordered = sorted(prompts, key=lambda prompt: prompt.from_second)
    return {plan.index_at(round(prompt.from_second * FRAMES_PER_SECOND)): prompt.text for prompt in ordered}


def fingerprint(tensor: Tensor) -> str:
    """Identifies a tensor's values."""
    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def check_fit(
    config: TransformerConfig, avatar: Portrait, speech: Speech, prompts: tuple[Prompt, ...] = (), vae: Any = None
) -> None:
    """Raise `InputError` unless all were made for this model, and speakers and masks go together.

    `vae` where another decodes than the avatar was made with.
    """
    _check_voices(avatar, speech)
    check_avatar(config, avatar, prompts)
    check_encoder(config, speech.encoder)
    if vae is not None:
        check_vae(config, vae, "this node's")


def check_avatar(config: TransformerConfig, avatar: Portrait, prompts: tuple[Prompt, ...] = ()) -> None:
    """Raise `InputError` unless the avatar and the later prompts were made for this model."""
    check_vae(config, avatar.vae, "LiveTalk Avatar's")
    config.geometry.check_size(*avatar.size)
    if config.prompted:
        _check_tokens(config, avatar, prompts)
    elif prompts:
        raise InputError(f"later prompts, but {member_name(config)} reads none: leave 'prompts' empty")
    elif avatar.masks is not None:
        raise InputError(
            f"the avatar has two speaker masks, but {member_name(config)} hears one: leave mask_1 and mask_2 of "
            "LiveTalk Avatar empty, or use the 14B model"
        )


def check_vae(config: TransformerConfig, vae: Any, whose: str) -> None:
    """Raise `InputError` where a VAE makes latents that the model was not trained on."""
    geometry, needed = host.vae_config(vae).geometry, config.geometry
    if geometry != needed:
        raise InputError(
            f"{whose} vae is {_vae_name(geometry)}; {member_name(config)} needs {_vae_name(needed)}: {VAE_LOADERS}"
        )


def _vae_name(geometry: Geometry) -> str:
    return "FlashHead Lite's LTX VAE" if geometry.latent_channels == LTX.latent_channels else "Wan 2.1's VAE"


VAE_LOADERS = "Load VAE gives Wan's (wan_2.1_vae), LiveTalk Load VAE FlashHead Lite's"


def member_name(config: TransformerConfig) -> str:
    """A model's name in an error."""
    names = {"14b": "this model", "flashhead-pro": "FlashHead Pro", "flashhead-lite": "FlashHead Lite"}
    return names[member_of(config).name]


def check_encoder(config: TransformerConfig, encoder: HostedAudioEncoder) -> None:
    """Raise `InputError` unless the model was made for this encoder's features."""
    if (encoder.blocks, encoder.channels) != (config.audio_blocks, config.audio_channels):
        raise InputError(
            f"the speech has {encoder.blocks} layers of {encoder.channels} features; this model needs "
            f"{config.audio_blocks} of {config.audio_channels}: encode it with the audio encoder made for this model"
        )


def _check_tokens(config: TransformerConfig, avatar: Portrait, prompts: tuple[Prompt, ...]) -> None:
    for text in (avatar.text, *(prompt.text for prompt in prompts)):
        widths = [tokens.shape[-1] for tokens in (text, avatar.clip)]
        if widths != [config.text_dim, config.clip_dim]:
            raise InputError(
                f"the prompt and image tokens are {widths[0]} and {widths[1]} wide; this model needs "
                f"{config.text_dim} and {config.clip_dim}: {_encoders_for(config)}"
            )


def _check_voices(avatar: Portrait, speech: Speech) -> None:
    if avatar.speakers == len(speech.voices):
        return
    if avatar.speakers == 1:
        raise InputError(
            f"two voices, but the avatar has {'no speaker masks' if avatar.masks is None else 'mask_1 alone'}; two "
            "speakers need both: connect mask_1 and mask_2 of LiveTalk Avatar, or leave audio_2 of LiveTalk Encode "
            "Speech empty"
        )
    raise InputError(
        "the avatar has two speaker masks, but there is one voice; two speakers need two: connect audio_2 of "
        "LiveTalk Encode Speech, or leave mask_2 of LiveTalk Avatar empty, where the first alone speaks"
    )


def _encoders_for(config: TransformerConfig) -> str:
    if config.text_dim == TransformerConfig.text_dim:
        return (
            "connect CLIP Text Encode of umt5_xxl (Load CLIP, type wan), and to LiveTalk Avatar a Load CLIP Vision "
            "of clip_vision_h"
        )
    return "leave clip_vision and conditioning unconnected, so that the embedded encoders are used"
