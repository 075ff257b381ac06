"""Guidance: how a MODEL is sampled whose weights are not distilled."""

from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.config import INFINITETALK, Guidance, TransformerConfig
from ..livetalk_core.errors import InputError
from . import host
from .handles import fingerprint
from .inputs import prompt_tokens

KEY = "livetalk_guidance"
USUAL = INFINITETALK.guidance or Guidance()


@dataclass(frozen=True, eq=False)
class Guided:
    """What a MODEL that is not distilled is marked with; `negative` [L,text_dim] where guidance by text needs it."""

    guidance: Guidance = field(default_factory=Guidance)
    negative: Tensor | None = None

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
                    tooltip="How strongly the prompt leads. 1 with a speed LoRA: a third to a half of the time.",
                ),
                io.Float.Input(
                    "audio_guidance",
                    default=USUAL.audio,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How strongly the sound leads the mouth. 2 with a speed LoRA; 1 is off and saves time.",
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
        marked = model.clone()
        mark(marked, Guided(guidance, tokens))
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
