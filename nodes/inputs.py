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
from ..livetalk_core.media.image import check_bounds, to_reference
from ..livetalk_core.media.mix import MixedAudio
from ..livetalk_core.presets import member_of
from ..livetalk_core.streaming.features import MODES, MOST_OFFSET_MS, offset_samples
from ..livetalk_core.streaming.finite import check_avatar
from . import host
from .framing import CENTER, CROPS, MOST, chosen_crop, frame_size, framing_notes, preset_of
from .given import checked, numbers, pictures, sound
from .handles import AudioEncoderSocket, AvatarSocket, HostedAudioEncoder, Portrait, Speech, SpeechSocket
from .masks import speaker_masks

PROMPT = "A person is talking."
OF_THE_ENCODER = {"pooled_output", "attention_mask"}
"""What CLIP Text Encode itself puts to a prompt."""
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
    @checked
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
        voices = (sound("audio", audio), *([] if audio_2 is None else [sound("audio_2", audio_2)]))
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
    @checked
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
        notes += [] if conditioning is None else unused_of(conditioning)
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


def one_image(image: Any) -> np.ndarray:
    """An IMAGE that holds one, of any channels, as [H,W,3] uint8; an error for any other."""
    images = pictures("image", image)
    if len(images) != 1:
        raise InputError(
            f"image of shape {list(images.shape)}, a batch of {len(images)}; one portrait [1,H,W,3] is needed: pick "
            "one (ImageFromBatch, length 1)"
        )
    check_bounds(images.shape[2], images.shape[1])
    check_avatar(("portrait", images))
    return (images[0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def prompt_tokens(conditioning: Any) -> Tensor:
    """The text tokens [L,dim] of a CONDITIONING that holds one prompt."""
    if not isinstance(conditioning, list) or len(conditioning) != 1:
        held = f"{len(conditioning)} prompts" if isinstance(conditioning, list) else f"a {type(conditioning).__name__}"
        raise InputError(f"conditioning holds {held}; one prompt is needed: connect CLIP Text Encode directly")
    tokens = numbers("the prompt's tokens", conditioning[0][0])
    if tokens.ndim != 3 or len(tokens) != 1 or not tokens.numel():
        raise InputError(
            f"the prompt's tokens are of shape {list(tokens.shape)}; one prompt [1,tokens,width] is needed: connect "
            "CLIP Text Encode directly"
        )
    return tokens[0].float()


def unused_of(conditioning: list[Any]) -> list[str]:
    """A line on what other nodes have put to a prompt and LiveTalk does not use: an area, a picture, a hook ..."""
    put = sorted(name for name, value in conditioning[0][1].items() if value is not None and name not in OF_THE_ENCODER)
    return [f"not used by LiveTalk of conditioning: {', '.join(name.replace('_', ' ') for name in put)}"] if put else []


def embedded_model() -> Model:
    """The embedded model, whose encoders serve where none are connected."""
    return nano.open_nano("cpu", torch.float32)


def embedded_text(prompt: str) -> Tensor:
    """Text tokens [L,dim] by the embedded model's own encoder."""
    return embedded_model().encode_texts(prompt)[0]
