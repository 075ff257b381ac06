"""What goes into a talking video: the speech, and the avatar that speaks it."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.checkpoints import nano
from ..livetalk_core.checkpoints.model import Model
from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.media.audio import TensorAudio
from ..livetalk_core.media.image import check_bounds, to_reference
from ..livetalk_core.media.mix import MixedAudio
from ..livetalk_core.presets import member_of
from ..livetalk_core.streaming.features import MODES, MOST_OFFSET_MS, offset_samples
from ..livetalk_core.streaming.finite import check_avatar
from . import host
from .framing import CENTER, CROPS, MOST, chosen_crop, frame_size, framing_notes, preset_of
from .handles import AudioEncoderSocket, AvatarSocket, HostedAudioEncoder, Portrait, Speech, SpeechSocket
from .masks import speaker_masks

PROMPT = "A person is talking."
PORTRAIT = "livetalk_portrait"
"""The node's output for the page, which shows there what of the portrait is kept (web/livetalk.js)."""


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
                io.Int.Input(
                    "audio_offset",
                    default=0,
                    min=-MOST_OFFSET_MS,
                    max=MOST_OFFSET_MS,
                    step=10,
                    advanced=True,
                    tooltip="Milliseconds by which the lips are ahead of the sound; below 0, behind it. The sound "
                    "itself stays where it is.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for the output 'chunks': with FlashHead Lite connected, whose chunks add 24 frames "
                    "and not 28.",
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
        audio_offset: int,
        audio_2: dict[str, Any] | None = None,
        model: Any = None,
    ) -> io.NodeOutput:
        """Check the sounds and wrap them; say what is to be known of them."""
        voices = (one_sound("audio", audio), *([] if audio_2 is None else [one_sound("audio_2", audio_2)]))
        source = voices[0] if len(voices) == 1 else MixedAudio(voices)
        speech = Speech(source, voices, audio_encoder, mode, offset_samples(audio_offset))
        if notes := [note for voice in voices for note in voice.notes]:
            host.say("\n".join(notes))
        stream = StreamConfig() if model is None else member_of(host.require_livetalk(model)).stream
        return io.NodeOutput(speech, speech.plan(stream).count)


class MakeAvatar(io.ComfyNode):
    """Portrait and prompt -> everything about the speaker that stays the same for the whole video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkAvatar",
            display_name="LiveTalk Avatar",
            category="LiveTalk",
            description="Makes a portrait ready to speak. The 14B model needs clip_vision and conditioning; FlashHead "
            "and the embedded model need neither.",
            search_aliases=["portrait", "talking head", "reference image"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="One portrait. It is scaled to cover the video's size; 'crop' says what is kept."
                ),
                io.Vae.Input(
                    "vae", tooltip="Wan 2.1's VAE; FlashHead Lite's from LiveTalk Load VAE; or the embedded model's."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="clip_vision_h, from Load CLIP Vision, for the 14B model. Others need none.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The prompt, from CLIP Text Encode with umt5_xxl (Load CLIP, type wan), for the 14B "
                    "model. Others need none.",
                ),
                io.Mask.Input(
                    "mask_1",
                    optional=True,
                    tooltip="Where the first speaker is, for two speakers. Alone: who of several people speaks; the "
                    "others listen.",
                ),
                io.Mask.Input(
                    "mask_2",
                    optional=True,
                    tooltip="Where the second speaker is, for two speakers.",
                ),
                _size_input("width"),
                _size_input("height"),
                io.String.Input(
                    "prompt",
                    default=PROMPT,
                    multiline=True,
                    tooltip="The prompt for the embedded model; not read by others, which take it from conditioning.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CENTER,
                    tooltip="What is kept of a portrait of another shape than the video: its centre, its top, or a "
                    "box, which you draw on the picture below.",
                ),
                io.String.Input(
                    "crop_box",
                    default="",
                    advanced=True,
                    tooltip="The box for 'crop', X,Y,W,H in the portrait's pixels. Drawing on the picture fills it in.",
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
        crop: str,
        crop_box: str,
        clip_vision: Any = None,
        conditioning: list[Any] | None = None,
        mask_1: Tensor | None = None,
        mask_2: Tensor | None = None,
    ) -> io.NodeOutput:
        """Read the portrait and the prompt; the portrait is encoded when a model asks for it."""
        portrait = one_image(image)
        if (clip_vision is None) != (conditioning is None):
            missing = "clip_vision" if clip_vision is None else "conditioning"
            raise InputError(
                f"{missing} is not connected; the 14B model needs clip_vision and conditioning, all others "
                "neither: connect both or none"
            )
        kept, size = chosen_crop(crop, crop_box), (portrait.shape[1], portrait.shape[0])
        preset = preset_of(host.vae_config(vae), clip_vision is not None)
        frame = frame_size(size, width, height, kept, preset)
        preset.geometry.check_size(*frame)
        masks = speaker_masks(mask_1, mask_2, portrait.shape[:2], frame, kept)
        reference = to_reference(portrait, *frame, kept)
        if clip_vision is None:
            clip, text = embedded_model().encode_image(reference), embedded_text(prompt)
        else:
            clip, text = host.image_tokens(clip_vision, reference), prompt_tokens(conditioning)
        engine = host.HostEngine(vae=vae)

        def encode(video: Tensor, noise: Tensor | None = None) -> Tensor:
            return engine.encode(video, noise).cpu()

        encoders = [part for part in (vae, clip_vision) if part is not None]
        made_with = ", ".join(host.weights_identity(part) for part in encoders)
        notes = framing_notes(size, (height, width), frame, kept, preset.geometry.size_multiple)
        if clip_vision is not None and prompt.strip() not in ("", PROMPT):
            notes.append("the widget 'prompt' is not read: conditioning is connected")
        host.say("\n".join(notes), log=False)
        avatar = Portrait(reference, clip, text, masks, vae, encode, made_with)
        return io.NodeOutput(avatar, ui={PORTRAIT: [host.temporary_picture(portrait)]})


def _size_input(name: str) -> io.Int.Input:
    other = {"width": "height", "height": "width"}[name]
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=MOST,
        step=16,
        tooltip=f"{name.capitalize()} of the video in pixels, a multiple of 16 (FlashHead Lite: 32). 0: from the "
        f"portrait's shape and {other}; both 0: the portrait's shape at the area that the model was made for (448x768 "
        "for 14B, 512x512 for FlashHead, 128x128 for the embedded one).",
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
