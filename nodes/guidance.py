"""How a MODEL is sampled: guidance where its weights are not distilled, and the steps and chunks it was made for."""

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import INFINITETALK, Guidance, StreamConfig, TransformerConfig, revisions_of
from ..livetalk_core.errors import InputError
from ..livetalk_core.streaming.avatar import Avatar
from . import host
from .handles import Correction, fingerprint
from .inputs import prompt_tokens

KEY = "livetalk_guidance"
USUAL = INFINITETALK.guidance or Guidance()
DISTILLED, PLAIN = StreamConfig(), StreamConfig(steps=INFINITETALK.steps)
"""What LiveTalk's own weights are made for, and the same architecture's before they are distilled."""


@dataclass(frozen=True, eq=False)
class Guided:
    """What a MODEL that is not distilled is marked with.

    `negative` [L,text_dim] where guidance by text needs it; `made_for` has the steps and the chunks of its weights.
    """

    guidance: Guidance = field(default_factory=Guidance)
    negative: Tensor | None = None
    made_for: StreamConfig = PLAIN

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
    def execute(
        cls, model: Any, text_guidance: float, audio_guidance: float, negative: list[Any] | None = None
    ) -> io.NodeOutput:
        """A copy of the MODEL that says how to sample it."""
        config = host.require_livetalk(model)
        guidance = Guidance(text_guidance, audio_guidance)
        tokens = None if guidance.text == 1 else negative_tokens(negative, config)
        before = guided_by(model)
        marked = model.clone()
        mark(marked, Guided(guidance, tokens, PLAIN if before is None else before.made_for))
        return io.NodeOutput(marked)


def negative_tokens(negative: list[Any] | None, config: TransformerConfig) -> Tensor:
    """The negative prompt's tokens [L,text_dim]; `InputError` where there are none of this model's."""
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
    found = guided_by(model)
    return None if found is None else found.guidance


def stream_of(
    model: Any, avatar: Avatar, correction: Correction | None, steps: int, own_chunks: bool = False
) -> StreamConfig:
    """How a MODEL's stream is sampled; `steps` 0 stands for as many as its weights were made for.

    With `own_chunks` so does the length of a chunk; without, it is LiveTalk's own, which chunk nodes keep to.
    """
    found = guided_by(model)
    made_for = DISTILLED if found is None else found.made_for
    chunks = {"frame_num": made_for.frame_num, "motion_frames": made_for.motion_frames} if own_chunks else {}
    settings = {"steps": steps or made_for.steps, "guidance": guidance_of(model), **chunks}
    settings["revisions"] = revisions_of(host.require_livetalk(model))
    return (correction or Correction()).stream(avatar, **settings)
