"""What goes into a talking video: the speech, and the avatar that speaks it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

from ..livetalk_core.checkpoints import nano
from ..livetalk_core.checkpoints.model import Model
from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import TensorAudio
from ..livetalk_core.media.image import check_bounds, to_reference
from ..livetalk_core.media.mix import MixedAudio
from ..livetalk_core.streaming.avatar import prepare_avatar
from ..livetalk_core.streaming.features import MODES
from ..livetalk_core.streaming.finite import check_avatar
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
                io.Audio.Input(
                    "audio_2",
                    optional=True,
                    tooltip="What the second speaker says; both begin together, and the video gets both. Needs the "
                    "avatar's masks. For turns, put silence where a speaker listens.",
                ),
            ],
            outputs=[
                SpeechSocket.Output(display_name="speech", tooltip="For LiveTalk Render or Sample Chunk."),
                io.Int.Output(
                    display_name="chunks",
                    tooltip="How many times LiveTalk Sample Chunk is to run: the iterations of a loop.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        audio_encoder: HostedAudioEncoder,
        audio: dict[str, Any] | None,
        mode: str,
        audio_2: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        """Check the sounds and wrap them."""
        voices = (one_sound("audio", audio), *([] if audio_2 is None else [one_sound("audio_2", audio_2)]))
        source = voices[0] if len(voices) == 1 else MixedAudio(voices)
        speech = Speech(source, voices, audio_encoder, mode)
        return io.NodeOutput(speech, speech.plan(StreamConfig()).count)


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
                io.Mask.Input(
                    "mask_1",
                    optional=True,
                    tooltip="Where the first speaker is, for two speakers.",
                ),
                io.Mask.Input(
                    "mask_2",
                    optional=True,
                    tooltip="Where the second speaker is, for two speakers.",
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
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
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
        masks = speaker_masks(mask_1, mask_2, portrait.shape[:2], height, width)
        reference = to_reference(portrait, height, width)
        if clip_vision is None:
            clip, text = embedded_model().encode_image(reference), embedded_text(prompt)
        else:
            clip, text = host.image_tokens(clip_vision, reference), prompt_tokens(conditioning)
        engine = host.HostEngine(vae=vae)

        def encode(video: Tensor) -> Tensor:
            return engine.encode(video).cpu()

        encoders = [part for part in (vae, clip_vision) if part is not None]
        made_with = ", ".join(host.weights_identity(part) for part in encoders)
        return io.NodeOutput(replace(prepare_avatar(reference, clip, text, encode, stream, masks), encoders=made_with))


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
    """An IMAGE [1,H,W,C] in 0..1 as [H,W,3] uint8, transparency laid on white; an error for any other.

    C: 1 grey, 2 grey and opacity, 3 colour, 4 colour and opacity. A batch of one may be left out.
    """
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or image.shape[0] != 1 or image.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"image of shape {list(image.shape)}, a batch of {image.shape[0]}; one portrait [1,H,W,3] is needed: pick "
            "one (ImageFromBatch, length 1)"
        )
    check_bounds(image.shape[2], image.shape[1])
    pixels = image[0].float().cpu()
    check_avatar(("portrait", pixels))
    if pixels.shape[-1] in (2, 4):
        pixels = torch.lerp(torch.ones_like(pixels[..., :-1]), pixels[..., :-1], pixels[..., -1:])
    return (pixels.expand(-1, -1, 3) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def prompt_tokens(conditioning: list[Any] | None) -> Tensor:
    """The text tokens [L,dim] of a CONDITIONING that holds one prompt."""
    if not conditioning or len(conditioning) != 1:
        raise InputError(
            f"conditioning holds {len(conditioning or [])} prompts; one is needed: connect CLIP Text Encode directly"
        )
    return conditioning[0][0][0].float().cpu()


def embedded_model() -> Model:
    """The embedded model, whose encoders serve where none are connected."""
    return nano.open_nano("cpu", torch.float32)


def embedded_text(prompt: str) -> Tensor:
    """Text tokens [L,dim] by the embedded model's own encoder."""
    return embedded_model().encode_texts(prompt)[0]


def one_sound(name: str, audio: dict[str, Any] | None) -> TensorAudio:
    """The sound of an AUDIO that holds one: samples [1,C,S], whole numbers taken for their type's full range."""
    if audio is None:
        raise InputError(f"{name} holds no sound (a silent video?); speech is needed: connect a sound")
    waveform = torch.as_tensor(audio["waveform"])
    waveform = waveform.reshape((1,) * (3 - waveform.ndim) + tuple(waveform.shape))
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise InputError(f"{name} is a batch of {waveform.shape[0]} sounds; one is needed: pick one of them")
    if not waveform.is_floating_point():
        waveform = waveform.float() / -float(torch.iinfo(waveform.dtype).min or -torch.iinfo(waveform.dtype).max)
    if not waveform.isfinite().all():
        raise InputError(f"{name} has samples that are no numbers (NaN or infinite); mend the node before it")
    return TensorAudio(waveform[0], round(audio["sample_rate"]))


def speaker_masks(
    mask_1: Tensor | None, mask_2: Tensor | None, size: tuple[int, ...], height: int, width: int
) -> Tensor | None:
    """Two MASKs [1,H,W] of an image of `size` (H, W) -> first, second, background [3,height,width] of 0 and 1.

    Scaled and cropped as the portrait is. None where none are connected.
    """
    if mask_1 is None and mask_2 is None:
        return None
    if mask_1 is None or mask_2 is None:
        missing = "mask_1" if mask_1 is None else "mask_2"
        raise InputError(f"{missing} is not connected; two speakers need both masks: connect both or none")
    speakers = torch.stack([one_mask("mask_1", mask_1, size), one_mask("mask_2", mask_2, size)], dim=-1)
    pixels = (torch.cat([speakers, torch.zeros_like(speakers[..., :1])], dim=-1) * 255).byte().numpy()
    areas = to_reference(pixels, height, width)[0, :2, 0] > 0
    masks = torch.cat([areas, ~areas.any(dim=0, keepdim=True)]).float()
    empty = [name for name, mask in zip(("mask_1", "mask_2", "the background"), masks, strict=True) if not mask.any()]
    if empty:
        raise InputError(
            f"nothing of the {width}x{height} picture is left for {' and '.join(empty)}; each speaker and the "
            "background need an area of at least 16x16 px: draw the masks again"
        )
    return masks


def one_mask(name: str, mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """The mask [H,W] in a MASK that holds one, scaled to the image's size."""
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[0] != 1:
        raise InputError(f"{name} is a batch of {mask.shape[0]} masks; one is needed: draw it on the portrait")
    scaled = F.interpolate(mask[None].float().cpu(), size=tuple(size), mode="bilinear")[0, 0]
    return scaled.clamp(0, 1)
