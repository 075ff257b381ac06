"""ComfyUI's own nodes before, between and behind LiveTalk's, each run: `python -m benchmarks.stock_nodes`.

Needs COMFYUI_PATH and COMFYUI_PYTHON. Every case renders a short talk by the embedded model twice, without the node
and with it, and compares the frames, or looks for the word that is to be said. Writes the table in
docs/stock_nodes.md; ends with 1 where a case is not as it should be.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.nodes.comfy_server import ComfyServer, Outcome, prepare
from tests.nodes.workflow import ids_of, load, named, small, to_prompt

TABLE = Path(__file__).resolve().parents[1] / "docs" / "stock_nodes.md"
IMAGES, VIDEO = 2, 0
"""Outputs of LiveTalk Render."""
DIFFERS, SAME, UNUSED, RUNS = (
    "changes the frames",
    "leaves the frames as they are",
    "has no effect, and is named",
    "runs",
)
INTRODUCTION = """# ComfyUI's own nodes around LiveTalk's

Each was run in ComfyUI {version} on a CPU with the embedded model (`python -m benchmarks.stock_nodes`): the frames with
it compared with those without it.

| where | node | what happens |
|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """A stock node, where it stands, and what is to happen: one of the words above, or words of an error.

    `inputs` are those that differ from their defaults; "$name" stands for an output of a node of the graph.
    """

    where: str
    node: str
    expected: str
    inputs: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("image", "ImageScale", DIFFERS, {"image": "$image", "width": 96, "height": 96}),
    Case("image", "ImageScaleBy", DIFFERS, {"image": "$image", "scale_by": 0.4}),
    Case("image", "ImageScaleToTotalPixels", DIFFERS, {"image": "$image", "megapixels": 0.02}),
    Case("image", "ImageCrop", DIFFERS, {"image": "$image", "width": 300, "height": 300, "x": 100, "y": 50}),
    Case("image", "ResizeAndPadImage", DIFFERS, {"image": "$image", "target_width": 200, "target_height": 100}),
    Case("image", "ImageFlip", DIFFERS, {"image": "$image"}),
    Case("image", "ImageRotate", DIFFERS, {"image": "$image", "rotation": "180 degrees"}),
    Case("image", "ImageBlur", DIFFERS, {"image": "$image", "blur_radius": 9, "sigma": 5.0}),
    Case("image", "ImageSharpen", DIFFERS, {"image": "$image", "alpha": 3.0}),
    Case("image", "ImageInvert", DIFFERS, {"image": "$image"}),
    Case("image", "ImageAddNoise", DIFFERS, {"image": "$image", "strength": 0.5}),
    Case("image", "ImageQuantize", DIFFERS, {"image": "$image", "colors": 4}),
    Case("image", "JoinImageWithAlpha", SAME, {"image": "$image", "alpha": "$mask"}),
    Case("image", "RepeatImageBatch", "one portrait", {"image": "$image", "amount": 2}),
    Case("image", "ImageFromBatch", SAME, {"image": "$image", "length": 1}),
    Case("audio", "AudioAdjustVolume", RUNS, {"audio": "$audio", "volume": -6}),
    Case("audio", "AudioEqualizer3Band", RUNS, {"audio": "$audio"}),
    Case("audio", "EmptyAudio", DIFFERS, {"duration": 0.4, "sample_rate": 22050, "channels": 1}),
    Case("audio", "AudioMerge", RUNS, {"audio1": "$audio", "audio2": "$audio"}),
    Case("mask_1", "SolidMask", "those who listen", {}),
    Case("mask_1", "ImageToMask", DIFFERS, {"image": "$image", "channel": "red"}),
    Case("model", "LoraLoaderModelOnly", DIFFERS, {"model": "$model", "lora_name": "talk.safetensors"}),
    Case("model", "LoraLoaderBypassModelOnly", DIFFERS, {"model": "$model", "lora_name": "talk.safetensors"}),
    Case("model", "ModelSamplingSD3", DIFFERS, {"model": "$model", "shift": 2.0}),
    Case("model", "EasyCache", UNUSED, {"model": "$model"}),
    Case("model", "LazyCache", UNUSED, {"model": "$model"}),
    Case("model", "ScaleROPE", UNUSED, {"model": "$model", "scale_x": 1.5}),
    Case("model", "FreSca", UNUSED, {"model": "$model"}),
    Case("model", "RescaleCFG", UNUSED, {"model": "$model"}),
    Case("model", "WanContextWindowsManual", UNUSED, {"model": "$model"}),
    Case("model", "ModelNoiseScale", UNUSED, {"model": "$model", "noise_scale": 2.0}),
    Case("model", "ModelComputeDtype", UNUSED, {"model": "$model", "dtype": "fp16"}),
    Case("images", "ImageUpscaleWithModel", RUNS, {"image": "$images", "upscale_model": "$upscaler"}),
    Case("images", "ImageScaleBy", RUNS, {"image": "$images", "scale_by": 2.0}),
    Case("images", "ImageCompositeMasked", RUNS, {"destination": "$image", "source": "$images", "x": 9, "y": 9}),
    Case("images", "RebatchImages", RUNS, {"images": "$images", "batch_size": 4}),
    Case("images", "SaveAnimatedWEBP", RUNS, {"images": "$images"}),
    Case("images", "CreateVideo", RUNS, {"images": "$images", "audio": "$audio", "fps": 25.0}),
    Case("video", "GetVideoComponents", RUNS, {"video": "$video"}),
    Case("video", "Video Slice", RUNS, {"video": "$video", "duration": 0.2}),
    Case("video", "SaveVideo", RUNS, {"video": "$video"}),
)
SHOWS = {"IMAGE": ("PreviewImage", "images"), "VIDEO": ("SaveVideo", "video"), "AUDIO": ("PreviewAudio", "audio")}
"""What makes a node behind ours run: type of its output -> a node that takes it, and its input."""


class Graph:
    """The quick start on a short speech, rendered without and with a case's node."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.info = object_info
        self.plain = small(to_prompt(load(named("livetalk_quick_start")), object_info))
        ids = ids_of(self.plain)
        self.avatar, self.speech = ids["LiveTalkAvatar"], ids["LiveTalkEncodeSpeech"]
        self.render = ids["LiveTalkRender"]
        self.plain["cut"] = self.node("TrimAudioDuration", audio=[ids["LoadAudio"], 0], duration=0.4)
        self.plain["upscaler"] = self.node("UpscaleModelLoader")
        self.plain[self.speech]["inputs"]["audio"] = ["cut", 0]
        self.plain[self.render]["inputs"] |= {"steps": 2, "save_output": False}
        self.named = {
            "$image": [ids["LoadImage"], 0], "$mask": [ids["LoadImage"], 1], "$audio": ["cut", 0],
            "$model": [ids["LiveTalkEmbeddedModel"], 0], "$upscaler": ["upscaler", 0],
            "$images": [self.render, IMAGES], "$video": [self.render, VIDEO],
        }  # fmt: skip

    def node(self, kind: str, **inputs: Any) -> dict[str, Any]:
        """A node with the defaults that its schema has."""
        required = self.info[kind]["input"].get("required", {})
        return {"class_type": kind, "inputs": dict(_defaults(required)) | inputs}

    def prompt(self, case: Case) -> dict[str, Any]:
        """The API prompt of a case."""
        prompt = json.loads(json.dumps(self.plain))
        inputs = {name: self.named.get(value, value) for name, value in case.inputs.items()}
        prompt["case"] = self.node(case.node, **inputs)
        if case.where in ("images", "video"):
            outputs = self.info[case.node]["output"]
            if not self.info[case.node]["output_node"]:
                kind, socket = SHOWS[outputs[0]]
                prompt["shown"] = self.node(kind, **{socket: ["case", 0]})
            return prompt
        changed = json.loads(json.dumps({key: prompt[key] for key in (self.avatar, self.speech, self.render)}))
        own = {key: f"{key}.with" for key in changed}
        for key, node in changed.items():
            node["inputs"] = {
                name: [own[value[0]], value[1]] if isinstance(value, list) and value[0] in own else value
                for name, value in node["inputs"].items()
            }
            prompt[own[key]] = node
        place = {"image": self.avatar, "mask_1": self.avatar, "audio": self.speech, "model": self.render}[case.where]
        prompt[own[place]]["inputs"][case.where] = ["case", 0]
        both = {"first": [self.render, IMAGES], "second": [own[self.render], IMAGES]}
        prompt["apart"] = {"class_type": "LiveTalkTestApart", "inputs": both}
        return prompt


def _defaults(required: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every required input and its default; of a combo with inputs of its own, those too, named behind a dot."""
    for name, (kind, *about) in required.items():
        options = about[0] if about else {}
        choices = kind if isinstance(kind, list) else options.get("options") or [None]
        if isinstance(choices[0], dict):
            yield f"{prefix}{name}", choices[0]["key"]
            yield from _defaults(choices[0]["inputs"].get("required", {}), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", options.get("default", choices[0])


def happened(outcome: Outcome) -> str:
    """What a case's run shows, in the words above, or the first line of its error."""
    if outcome.error:
        return outcome.error["exception_message"].strip().splitlines()[0]
    said = [text for text in outcome.texts if "not used by LiveTalk" in text]
    if "apart" not in outcome.outputs:
        return RUNS
    distance = outcome.outputs["apart"]["apart"][1]
    return DIFFERS if distance else f"{UNUSED}: {said[-1].splitlines()[-1]}" if said else SAME


def as_expected(case: Case, outcome: str) -> bool:
    """Whether it is what is to happen."""
    return case.expected in outcome or (case.expected == RUNS and outcome in (SAME, DIFFERS))


def run_all(server: ComfyServer) -> Iterator[tuple[Case, str]]:
    """Every case, and what happened."""
    graph = Graph(server.get("object_info"))
    for case in CASES:
        yield case, happened(server.run(graph.prompt(case)))


def main() -> int:
    """Run all on a server of their own; the exit status."""
    comfyui, faults, rows = Path(os.environ["COMFYUI_PATH"]), 0, []
    with tempfile.TemporaryDirectory() as folder:
        prepare(comfyui, Path(folder) / "base")
        server = ComfyServer(comfyui, Path(folder) / "base")
        try:
            version = server.get("system_stats")["system"]["comfyui_version"]
            for case, outcome in run_all(server):
                faults += not as_expected(case, outcome)
                print(
                    f"{'' if as_expected(case, outcome) else 'NOT AS EXPECTED '}{case.where} {case.node}: {outcome}",
                    flush=True,
                )
                rows.append(f"| {case.where} | {case.node} | {outcome} |")
        finally:
            server.close()
    TABLE.write_text(INTRODUCTION.format(version=version) + "\n".join(rows) + "\n", encoding="utf-8")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
