"""A custom node pack for tests in a real ComfyUI.

It stands in for the two loaders that cannot take small files (CLIPLoader, CLIPVisionLoader: their models' widths are
fixed), by nodes of its own and, for graphs that are run as they are, in their own place. It compares images, makes what
does not fit, presses Cancel at a given point, and shows the sockets of Start and End Loop where core is too old to have
them. Not part of LiveTalk.
"""

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from comfy_execution.graph_utils import GraphBuilder
from safetensors.torch import load_file

import nodes as core_nodes


def livetalk(name: str) -> Any:
    """A module of the pack, or of its core, which ComfyUI has imported under a name of its own."""
    endings = (f".livetalk_core.{name}", f"livetalk.{name}")
    return next(module for key, module in sys.modules.items() if key.endswith(endings))


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
        """The small vision encoder."""
        return io.NodeOutput(small_clip_vision())


def small_clip_vision() -> comfy.clip_vision.ClipVisionModel:
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
    return clip


def stand_in_for_core() -> None:
    """Core's two loaders give the small ones, whatever file is chosen."""
    core_nodes.CLIPLoader.load_clip = lambda *_, **__: (SmallClip(),)
    core_nodes.CLIPVisionLoader.load_clip = lambda *_, **__: (small_clip_vision(),)


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


class CancelAt(io.ComfyNode):
    """Presses Cancel during the n-th call of a function from now on: `module:name` or `module:class.name` of the pack.

    Shows how often the function of the time before was called. An empty `point` presses nothing more.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        inputs = [io.String.Input("point"), io.Int.Input("call"), io.Int.Input("again")]
        return io.Schema("LiveTalkTestCancelAt", category="tests", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, point: str, call: int, again: int) -> io.NodeOutput:
        """`again` is any number that makes ComfyUI run the node once more."""
        before, PRESSED.calls = PRESSED.calls, 0
        if PRESSED.undo:
            PRESSED.undo()
            PRESSED.undo = None
        if point:
            press_at(point, call)
        return io.NodeOutput(ui={"calls": [before]})


PRESSED = SimpleNamespace(undo=None, calls=0)


def press_at(point: str, call: int) -> None:
    """Wrap a function so that its n-th call presses Cancel before it runs."""
    module, _, path = point.partition(":")
    owner, name = livetalk(module), path.split(".")[-1]
    for step in path.split(".")[:-1]:
        owner = getattr(owner, step)
    real = getattr(owner, name)

    def pressed(*args: Any, **options: Any) -> Any:
        PRESSED.calls += 1
        if PRESSED.calls == call:
            comfy.model_management.interrupt_current_processing()
        return real(*args, **options)

    setattr(owner, name, pressed)
    PRESSED.undo = lambda: setattr(owner, name, real)


class InLoop(io.ComfyNode):
    """Puts a node in its own place as it runs, as loops do, and an image node behind one of its outputs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            "LiveTalkTestInLoop", category="tests", enable_expand=True, accept_all_inputs=True,
            inputs=[io.String.Input("type"), io.Int.Input("output")], outputs=[io.Image.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, type: str, output: int, **inputs: Any) -> io.NodeOutput:
        """`inputs` are the node's."""
        graph = GraphBuilder()
        images = graph.node(type, **inputs).out(output)
        return io.NodeOutput(graph.node("ImageInvert", image=images).out(0), expand=graph.finalize())


class OtherAudioEncoder(io.ComfyNode):
    """An audio encoder of another width than the embedded model's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        socket = io.Custom("LIVETALK_AUDIO_ENCODER").Output()
        return io.Schema("LiveTalkTestOtherAudioEncoder", category="tests", outputs=[socket])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Never run, so its weights may be anything."""
        config = dataclasses.replace(livetalk("checkpoints.nano").PRESET.audio, num_hidden_layers=2)
        encoder = livetalk("models.audio_encoder").AudioEncoder(config)
        return io.NodeOutput(livetalk("nodes.loaders").hosted(encoder, "stand-in"))


class OtherModel(io.ComfyNode):
    """A MODEL that is not LiveTalk's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema("LiveTalkTestOtherModel", category="tests", outputs=[io.Model.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Never run, so it may be anything."""
        cpu = torch.device("cpu")
        return io.NodeOutput(comfy.model_patcher.CoreModelPatcher(torch.nn.Linear(1, 1), cpu, cpu))


class Wide(torch.nn.Module):
    """Makes images twice as wide, and no higher."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[1,3,H,W] -> [1,3,H,2W]."""
        return image.repeat_interleave(2, 3) + self.bias


class WideUpscaler(io.ComfyNode):
    """An upscale model that changes the aspect."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema("LiveTalkTestWideUpscaler", category="tests", outputs=[io.UpscaleModel.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """As much of an UPSCALE_MODEL as upscaling reads."""

        class Descriptor:
            module, scale = Wide(), 2
            cpu = torch.device("cpu")
            patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=cpu, offload_device=cpu)

            def __call__(self, image: torch.Tensor) -> torch.Tensor:
                return self.module(image)

        return io.NodeOutput(Descriptor())


class MergedModel(io.ComfyNode):
    """The embedded MODEL with a LoRA merged into its weights, by plain arithmetic."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        inputs = [io.String.Input("lora_name"), io.Float.Input("strength")]
        return io.Schema("LiveTalkTestMergedModel", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, lora_name: str, strength: float) -> io.NodeOutput:
        """W + strength * alpha / rank * up @ down."""
        nano, host = livetalk("checkpoints.nano"), livetalk("nodes.host")
        weights = nano.transformer("cpu", torch.float32).state_dict()
        lora = load_file(folder_paths.get_full_path_or_raise("loras", lora_name))
        for key in [key for key in lora if key.endswith(".lora_up.weight")]:
            layer = key.removesuffix(".lora_up.weight")
            up, down = lora[key], lora[f"{layer}.lora_down.weight"]
            scale = strength * lora[f"{layer}.alpha"].item() / len(down)
            name = f"{layer.removeprefix('diffusion_model.')}.weight"
            weights[name] = weights[name] + scale * up @ down
        reload = (livetalk("nodes.loaders").embedded_transformer, ())
        return io.NodeOutput(host.build_model("merged", nano.PRESET.transformer, weights, reload, False))


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
        """All of them; the loop's sockets only where core has none."""
        loops = [] if "StartLoop" in core_nodes.NODE_CLASS_MAPPINGS else [StartLoopSockets, EndLoopSockets]
        made = [SmallClipLoader, SmallClipVisionLoader, OtherAudioEncoder, OtherModel, WideUpscaler, MergedModel]
        return [*made, Apart, CancelAt, InLoop, *loops]


async def comfy_entrypoint() -> StandIns:
    """ComfyUI's way in."""
    stand_in_for_core()
    return StandIns()
