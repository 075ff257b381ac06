"""How a MODEL is sampled: guidance where its weights are not distilled, and the steps and chunks it was made for."""

from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import INFINITETALK, Guidance, StreamConfig, TransformerConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.presets import PRESETS, member_of, revisions_of
from . import host
from .given import checked
from .handles import Correction, Portrait, fingerprint, member_name
from .inputs import prompt_tokens

KEY = "livetalk_guidance"
USUAL = INFINITETALK.guidance or Guidance()
PLAIN = StreamConfig(steps=INFINITETALK.steps)
"""What LiveTalk's own architecture is made for before its weights are distilled."""


@dataclass(frozen=True, eq=False)
class Guided:
    """What a MODEL that is not distilled is marked with.

    `negative` [L,text_dim] where guidance by text needs it; `made_for` has the steps and the chunks of its weights,
    None where they are those of its member of the family.
    """

    guidance: Guidance = field(default_factory=Guidance)
    negative: Tensor | None = None
    made_for: StreamConfig | None = PLAIN

    @property
    def identity(self) -> str:
        """For what a resumed render must not change beside the scales, which its stream names."""
        return "" if self.negative is None else f", negative prompt {fingerprint(self.negative)}"


class SetGuidance(io.ComfyNode):
    """The same MODEL, to be sampled with guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkGuidance",
            display_name="LiveTalk Guidance",
            category="LiveTalk",
            description="Guidance (CFG) by prompt and by sound, for models that are not distilled: Wan 2.1 with an "
            "InfiniteTalk patch. LiveTalk's own model needs none.",
            search_aliases=["cfg", "guider", "audio cfg", "infinitetalk"],
            inputs=[
                io.Model.Input("model", tooltip="From LiveTalk Load Model with a model patch, with any LoRAs."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt, from CLIP Text Encode with umt5_xxl. Needed unless text_guidance is "
                    "1.",
                ),
                io.Float.Input(
                    "text_guidance",
                    default=USUAL.text,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How strongly the prompt leads; 1 is off and saves time. 5 for the plain weights, 1 with a "
                    "speed LoRA.",
                ),
                io.Float.Input(
                    "audio_guidance",
                    default=USUAL.audio,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How strongly the sound leads the mouth; 1 is off and saves time. 3 to 5 for the plain "
                    "weights, 2 with a speed LoRA.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For LiveTalk Render or Sample Chunk.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model: Any, text_guidance: float, audio_guidance: float, negative: list[Any] | None = None
    ) -> io.NodeOutput:
        """A copy of the MODEL that says how to sample it."""
        config = host.require_livetalk(model)
        guidance = Guidance(text_guidance, audio_guidance)
        tokens = None if guidance.text == 1 else negative_tokens(negative, config)
        before = guided_by(model)
        plain = PLAIN if config.prompted else None
        marked = model.clone()
        mark(marked, Guided(guidance, tokens, plain if before is None else before.made_for))
        return io.NodeOutput(marked)


def negative_tokens(negative: list[Any] | None, config: TransformerConfig) -> Tensor:
    """The negative prompt's tokens [L,text_dim]; `InputError` where there are none of this model's."""
    if not config.prompted:
        raise InputError("guidance by text, but FlashHead reads no prompt: set text_guidance to 1")
    if negative is None:
        raise InputError(
            "guidance by text has no negative prompt; it compares with one: connect CLIP Text Encode to 'negative', or "
            "set text_guidance to 1"
        )
    tokens = prompt_tokens(negative)
    if tokens.shape[-1] != config.text_dim:
        raise InputError(
            f"the negative prompt's tokens are {tokens.shape[-1]} wide; this model needs {config.text_dim}: connect "
            "CLIP Text Encode of the encoder that the prompt has"
        )
    return tokens


def mark(model: Any, guided: Guided) -> None:
    """Have a MODEL sampled as weights are that are not distilled."""
    model.set_attachments(KEY, guided)


def guided_by(model: Any) -> Guided | None:
    """What a MODEL is marked with; None for a distilled one."""
    return model.get_attachment(KEY)


def guidance_of(model: Any) -> Guidance | None:
    """The guidance of a MODEL, for its stream; None for a distilled one."""
    guided = guided_by(model)
    return None if guided is None else guided.guidance


def made_for(model: Any) -> StreamConfig:
    """The stream that a MODEL's weights were made for, its LoRAs considered: LeapTalk's brings its own way.

    `InputError` where a LoRA is another model's.
    """
    config, marked = host.require_livetalk(model), guided_by(model)
    leaptalk = host.check_loras(model)
    if leaptalk and member_of(config) is not PRESETS["flashhead-pro"]:
        raise InputError(f"LeapTalk's LoRA on {member_name(config)}; it was made for FlashHead Pro: load that")
    if marked is not None and marked.made_for is not None:
        return marked.made_for
    return replace(member_of(config, adapted=leaptalk).stream, revisions=revisions_of(config))


def stream_of(
    model: Any, avatar: Portrait, correction: Correction | None, steps: int, own_chunks: bool = False
) -> StreamConfig:
    """How a MODEL's stream is sampled; `steps` 0 stands for as many as its weights were made for.

    With `own_chunks` so does the length of a chunk; without, an InfiniteTalk patch has LiveTalk's own, which chunk
    nodes keep to.
    """
    weights = made_for(model)
    if weights == INFINITETALK and not own_chunks:
        weights = replace(weights, frame_num=PLAIN.frame_num, motion_frames=PLAIN.motion_frames)
    settings = {"steps": steps or weights.steps, "guidance": guidance_of(model)}
    return (correction or Correction()).stream(weights, avatar, **settings)
