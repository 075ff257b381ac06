"""A custom node pack for tests in a real ComfyUI.

It stands in for the two loaders that cannot take small files (CLIPLoader, CLIPVisionLoader: their models' widths are
fixed), compares images, and shows the sockets of Start and End Loop where core is too old to have them. Not part of
LiveTalk.
"""

import sys
from typing import Any

import comfy.clip_vision
import torch
from comfy_api.latest import ComfyExtension, io

import nodes as core_nodes


def livetalk(name: str) -> Any:
    """A module of the pack, which ComfyUI has imported under a name of its own."""
    ending = f".livetalk_core.{name}"
    return next(module for key, module in sys.modules.items() if key.endswith(ending))


class SmallClip:
    """As much of a CLIP as CLIP Text Encode asks for, with the embedded model's text encoder."""

    def tokenize(self, text: str) -> str:
        """Tokens are the text itself."""
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        """CONDITIONING [[1,L,32], {}]."""
        nano = livetalk("checkpoints.nano")
        return [[nano.open_nano("cpu", torch.float32).encode_texts(tokens)[0][None], {}]]


class SmallClipLoader(io.ComfyNode):
    """In place of CLIPLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema("LiveTalkTestCLIPLoader", category="tests", outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """The small CLIP."""
        return io.NodeOutput(SmallClip())


class SmallClipVisionLoader(io.ComfyNode):
    """In place of CLIPVisionLoader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema("LiveTalkTestCLIPVisionLoader", category="tests", outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """ComfyUI's own vision encoder, with random weights at the embedded model's widths."""
        torch.manual_seed(5)
        clip = comfy.clip_vision.ClipVisionModel(
            {
                "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256,
                "image_size": 112, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu", "projection_dim": 16,
                "model_type": "clip_vision_model",
            }
        )  # fmt: skip
        for parameter in clip.model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        return io.NodeOutput(clip)


class Apart(io.ComfyNode):
    """How far two batches of images are apart, unrounded by any file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        sockets = [io.Image.Input("first"), io.Image.Input("second")]
        return io.Schema("LiveTalkTestApart", category="tests", inputs=sockets, is_output_node=True)

    @classmethod
    def execute(cls, first: torch.Tensor, second: torch.Tensor) -> io.NodeOutput:
        """The number of images, and the largest difference of [N,H,W,3] in 0..1, for the browser."""
        assert first.shape == second.shape, f"{tuple(first.shape)} and {tuple(second.shape)}"
        return io.NodeOutput(ui={"apart": [len(first), (first - second).abs().max().item()]})


class StartLoopSockets(io.ComfyNode):
    """The sockets of core's Start Loop, for a frontend to draw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows from 0.36 on, as far as our workflow uses it."""
        carried, item = io.MatchType.Template("carried_value"), io.MatchType.Template("list_item")
        simple = io.DynamicCombo.Option("simple", [io.Int.Input("num_iterations", default=4, min=0)])
        return io.Schema(
            "StartLoop",
            display_name="Start Loop",
            category="utilities/looping",
            inputs=[
                io.DynamicCombo.Input("mode", options=[simple]),
                io.Boolean.Input("cache_iterations", default=False, advanced=True),
                io.Int.Input("parent_iteration", optional=True, force_input=True),
                io.MatchType.Input("initial_iteration_value", carried, optional=True),
            ],
            outputs=[
                io.Int.Output("iteration_index"),
                io.Boolean.Output("is_first"),
                io.Boolean.Output("is_last"),
                io.MatchType.Output(item, id="list_item"),
                io.MatchType.Output(carried, id="current_iteration_value"),
            ],
        )

    @classmethod
    def execute(cls, **_: Any) -> io.NodeOutput:
        """Not to be run."""
        raise NotImplementedError("this ComfyUI has no loops")


class EndLoopSockets(io.ComfyNode):
    """The sockets of core's End Loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows from 0.36 on, as far as our workflow uses it."""
        output, carried = io.MatchType.Template("output_value"), io.MatchType.Template("carried_value")
        return io.Schema(
            "EndLoop",
            display_name="End Loop",
            category="utilities/looping",
            inputs=[
                io.MatchType.Input("output_value", output, optional=True),
                io.MatchType.Input("next_iteration_value", carried, optional=True),
                io.Boolean.Input("accumulate", default=False),
            ],
            outputs=[io.MatchType.Output(output, id="outputs", is_output_list=True)],
        )

    @classmethod
    def execute(cls, **_: Any) -> io.NodeOutput:
        """Not to be run."""
        raise NotImplementedError("this ComfyUI has no loops")


class StandIns(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The two loaders, the comparison, and the loop's sockets where core has none."""
        loops = [] if "StartLoop" in core_nodes.NODE_CLASS_MAPPINGS else [StartLoopSockets, EndLoopSockets]
        return [SmallClipLoader, SmallClipVisionLoader, Apart, *loops]


async def comfy_entrypoint() -> StandIns:
    """ComfyUI's way in."""
    return StandIns()
