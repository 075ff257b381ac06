"""What goes into a talking video: the speech, and the avatar that speaks it."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.checkpoints import nano
from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import TensorAudio
from ..livetalk_core.media.image import check_bounds, to_reference
from ..livetalk_core.streaming.avatar import prepare_avatar
from ..livetalk_core.streaming.features import MODES
from . import host
from .handles import AudioEncoderSocket, AvatarSocket, HostedAudioEncoder, Speech, SpeechSocket


class EncodeSpeech(io.ComfyNode):
    """AUDIO -> a speech handle; nothing is encoded before a chunk needs it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkEncodeSpeech",
            display_name="LiveTalk Encode Speech",
            category="LiveTalk",
            description="Makes a sound ready for LiveTalk. Its length is the video's: 25 frames per second.",
            search_aliases=["audio encoder", "wav2vec", "lip sync"],
            inputs=[
                AudioEncoderSocket.Input(
                    "audio_encoder", tooltip="From LiveTalk Load Audio Encoder or Embedded Model."
                ),
                io.Audio.Input("audio", tooltip="One sound: speech, of any length and sample rate."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="window: overlapping windows, any length. stream: only the last 8 seconds are heard, as "
                    "in a live call. whole: everything at once, up to 5 minutes.",
                ),
            ],
            outputs=[SpeechSocket.Output(display_name="speech", tooltip="For LiveTalk Render or Sample Chunk.")],
        )

    @classmethod
    def execute(cls, audio_encoder: HostedAudioEncoder, audio: dict[str, Any], mode: str) -> io.NodeOutput:
        """Check the sound and wrap it."""
        waveform = audio["waveform"]
        if waveform.shape[0] != 1:
            raise InputError(f"batch of {waveform.shape[0]} sounds; one is needed: pick one of them")
        return io.NodeOutput(Speech(TensorAudio(waveform[0], audio["sample_rate"]), audio_encoder, mode))


class MakeAvatar(io.ComfyNode):
    """Portrait and prompt -> everything about the speaker that stays the same for the whole video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkAvatar",
            display_name="LiveTalk Avatar",
            category="LiveTalk",
            description="Makes a portrait ready to speak. With the embedded model, leave clip_vision and conditioning "
            "empty; the 14B model needs both.",
            search_aliases=["portrait", "talking head", "reference image"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="One portrait. It is scaled to cover the size and cropped to its centre."
                ),
                io.Vae.Input("vae", tooltip="Wan 2.1's VAE, or the embedded model's."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="clip_vision_h, from Load CLIP Vision. Leave it empty with the embedded model.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The prompt, from CLIP Text Encode with umt5_xxl (Load CLIP, type wan). Leave it empty "
                    "with the embedded model.",
                ),
                _size_input("width", 128, "448 for the 14B model, 128 for the embedded one."),
                _size_input("height", 128, "768 for the 14B model, 128 for the embedded one."),
                io.String.Input(
                    "prompt",
                    default="A person is talking.",
                    multiline=True,
                    tooltip="The prompt for the embedded text encoder; not read where conditioning is connected.",
                ),
            ],
            outputs=[AvatarSocket.Output(display_name="avatar", tooltip="For LiveTalk Render or Sample Chunk.")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        width: int,
        height: int,
        prompt: str,
        clip_vision: Any = None,
        conditioning: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Encode the portrait and the prompt."""
        stream = StreamConfig(height, width)
        portrait = one_image(image)
        if (clip_vision is None) != (conditioning is None):
            missing = "clip_vision" if clip_vision is None else "conditioning"
            raise InputError(
                f"{missing} is not connected; the 14B model needs clip_vision and conditioning, the embedded model "
                "neither: connect both or none"
            )
        reference = to_reference(portrait, height, width)
        if clip_vision is None:
            clip, text = embedded_tokens(reference, prompt)
        else:
            clip, text = host.image_tokens(clip_vision, reference), prompt_tokens(conditioning)
        engine = host.HostEngine(vae=vae)
        return io.NodeOutput(prepare_avatar(reference, clip, text, lambda video: engine.encode(video).cpu(), stream))


def _size_input(name: str, default: int, advice: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        default=default,
        min=64,
        max=4096,
        step=16,
        tooltip=f"{name.capitalize()} of the video in pixels, a multiple of 16. {advice}",
    )


def one_image(image: Tensor) -> np.ndarray:
    """An IMAGE [1,H,W,3 or 4] in 0..1 as [H,W,3] uint8, transparency laid on white; an error for any other."""
    if image.shape[0] != 1:
        raise InputError(
            f"batch of {image.shape[0]} images; one portrait is needed: pick one (ImageFromBatch, length 1)"
        )
    check_bounds(image.shape[2], image.shape[1])
    pixels = image[0].float().cpu()
    if pixels.shape[-1] == 4:
        pixels = torch.lerp(torch.ones_like(pixels[..., :3]), pixels[..., :3], pixels[..., 3:])
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def prompt_tokens(conditioning: list[Any] | None) -> Tensor:
    """The text tokens [L,dim] of a CONDITIONING that holds one prompt."""
    if not conditioning or len(conditioning) != 1:
        raise InputError(
            f"conditioning holds {len(conditioning or [])} prompts; one is needed: connect CLIP Text Encode directly"
        )
    return conditioning[0][0][0].float().cpu()


def embedded_tokens(reference: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
    """Image tokens [1,S,dim] and text tokens [L,dim] by the embedded model's own encoders."""
    model = nano.open_nano("cpu", torch.float32)
    return model.encode_image(reference), model.encode_texts(prompt)[0]
