"""Optional settings of a talk: what changes in its course, and what keeps it from drifting."""

from typing import Any

from comfy_api.latest import io

from ..livetalk_core.config import CorrectionConfig
from . import host
from .given import checked
from .handles import Correction, CorrectionSocket, Prompt, PromptsSocket
from .inputs import embedded_text, prompt_tokens, unused_of

RETROSPECTION = CorrectionConfig()
"""Its defaults."""
JOINS = {"with retrospection": None, "always": True, "never": False}
"""When chunks are joined, by the names in the widget: `StreamConfig.joins`."""


class LaterPrompt(io.ComfyNode):
    """A prompt that holds from some second of the talk on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkPrompt",
            display_name="LiveTalk Prompt",
            category="LiveTalk",
            description="Another prompt for the talk from some second on. Chain several for several changes.",
            search_aliases=["prompt schedule", "prompt travel", "per-chunk prompt"],
            inputs=[
                PromptsSocket.Input("prompts", optional=True, tooltip="Prompts for other parts, to be joined to."),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The prompt, from CLIP Text Encode with umt5_xxl. Leave it empty with the embedded model.",
                ),
                io.String.Input(
                    "prompt",
                    default="A person is talking and smiling.",
                    multiline=True,
                    tooltip="The prompt for the embedded text encoder; not read where conditioning is connected.",
                ),
                io.Float.Input(
                    "from_second",
                    default=5.0,
                    min=0.0,
                    max=1e6,
                    step=0.04,
                    tooltip="The second of the talk from which the prompt holds, to the chunk (about 1.1 s).",
                ),
            ],
            outputs=[PromptsSocket.Output(display_name="prompts", tooltip="For LiveTalk Render, or another Prompt.")],
        )

    @classmethod
    @checked
    def execute(
        cls, prompt: str, from_second: float, prompts: tuple[Prompt, ...] = (), conditioning: list[Any] | None = None
    ) -> io.NodeOutput:
        """The prompts so far and this one."""
        text = embedded_text(prompt) if conditioning is None else prompt_tokens(conditioning)
        if conditioning is not None and (notes := unused_of(conditioning)):
            host.say("\n".join(notes), log=False)
        return io.NodeOutput((*prompts, Prompt(text, from_second)))


class SetCorrection(io.ComfyNode):
    """Settings of what keeps a talk from drifting."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkCorrection",
            display_name="LiveTalk Correction",
            category="LiveTalk",
            description="What keeps a talk from drifting away from its portrait. Without this node the defaults hold.",
            search_aliases=["color match", "colour correction", "drift", "retrospective correction"],
            inputs=[
                io.Float.Input(
                    "color_correction",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far each frame's colours are pulled towards the portrait's: 1 fully (stops drift of "
                    "colour), 0 not at all.",
                ),
                io.Float.Input(
                    "retrospection",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Looks back at the last chunks and undoes so much of what has drifted from the portrait "
                    "(brightness, contrast, sharpness): 0 off, 1 fully. The settings below are for it alone.",
                ),
                io.Float.Input(
                    "threshold",
                    default=RETROSPECTION.threshold,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Smaller drift is left alone. 0.1 is about a tenth of the picture's own contrast.",
                ),
                io.Int.Input(
                    "interval",
                    default=RETROSPECTION.interval,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Look back every so many chunks (a chunk is about 1.1 s).",
                ),
                io.Int.Input(
                    "lookback",
                    default=RETROSPECTION.lookback,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip="How many of the last chunks are looked at together: fewer react sooner, more tell drift "
                    "from movement.",
                ),
                io.Combo.Input(
                    "join",
                    options=list(JOINS),
                    default="with retrospection",
                    optional=True,
                    advanced=True,
                    tooltip="When each chunk's first frames are led from the last one shown to where the chunk goes "
                    "on: no seams, but the mouth may be a little late there.",
                ),
            ],
            outputs=[
                CorrectionSocket.Output(display_name="correction", tooltip="For LiveTalk Render or Sample Chunk.")
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        color_correction: float,
        retrospection: float,
        threshold: float,
        interval: int,
        lookback: int,
        join: str = "with retrospection",
    ) -> io.NodeOutput:
        """The settings; at strength 0 retrospection does not run at all."""
        config = CorrectionConfig(interval, lookback, threshold, retrospection) if retrospection else None
        return io.NodeOutput(Correction(color_correction, config, JOINS[join]))
