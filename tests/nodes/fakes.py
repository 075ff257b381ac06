"""A stand-in for `comfy_api`, and the pack imported under a made-up name, as ComfyUI does it.

It knows no more of V3 than the pack may use: the schema fields of ComfyUI 0.16, so that a younger one fails here.
"""

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACK = "livetalk_under_test"


@dataclass
class Socket:
    """An input or output of a node."""

    kind: str
    id: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _kind(name: str) -> type:
    class Kind:
        @staticmethod
        def Input(id: str, **options: Any) -> Socket:
            return Socket(name, id, options)

        @staticmethod
        def Output(id: str | None = None, **options: Any) -> Socket:
            return Socket(name, id, options)

    return Kind


@dataclass
class Schema:
    """The fields that `io.Schema` has had since ComfyUI 0.16."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Socket] = field(default_factory=list)
    outputs: list[Socket] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: Any = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None


class NodeOutput:
    """What a node's execute gives back."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class Graph:
    """ComfyUI's DynamicPrompt: the nodes that are queued, and those that nodes put in as they run."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.nodes = nodes

    def all_node_ids(self) -> set[str]:
        """Of both kinds."""
        return set(self.nodes)

    def get_node(self, node_id: str) -> Any:
        """One of them."""
        return self.nodes[node_id]


class ComfyNode:
    """Base of V3 nodes."""

    hidden = types.SimpleNamespace(
        prompt={"1": {}}, dynprompt=Graph({"1": {}}), extra_pnginfo={"workflow": {"nodes": []}}, unique_id="1"
    )


class ComfyExtension:
    """Base of a pack's extension."""


class VideoFromFile:
    """A file-backed VIDEO."""

    def __init__(self, file: str) -> None:
        self.file = file


class PreviewVideo:
    """A video shown on a node."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def as_dict(self) -> dict[str, Any]:
        """What is sent to the browser."""
        return {"images": self.values, "animated": (True,)}


@dataclass
class SavedResult:
    """A file that ComfyUI serves."""

    filename: str
    subfolder: str
    type: str


def comfy_api() -> dict[str, types.ModuleType]:
    """The modules `comfy_api` and `comfy_api.latest`."""
    io = types.SimpleNamespace(Schema=Schema, NodeOutput=NodeOutput, ComfyNode=ComfyNode, Custom=_kind)
    io.FolderType = types.SimpleNamespace(output="output", temp="temp")
    io.Hidden = types.SimpleNamespace(
        prompt="PROMPT", dynprompt="DYNPROMPT", extra_pnginfo="EXTRA_PNGINFO", unique_id="UNIQUE_ID"
    )
    for name in (
        "Int", "Float", "String", "Boolean", "Combo", "Image", "Latent", "Conditioning", "Model", "Vae",
        "Clip", "ClipVision", "Audio", "Video", "Mask", "UpscaleModel",
    ):  # fmt: skip
        setattr(io, name, _kind(name.upper()))
    latest = types.ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, ComfyExtension
    latest.ui = types.SimpleNamespace(PreviewVideo=PreviewVideo, SavedResult=SavedResult)
    latest.InputImpl = types.SimpleNamespace(VideoFromFile=VideoFromFile)
    api = types.ModuleType("comfy_api")
    api.latest = latest
    return {"comfy_api": api, "comfy_api.latest": latest}


def import_pack(host: types.ModuleType) -> types.ModuleType:
    """Import the pack as ComfyUI would, with `host` in place of `nodes/host`."""
    sys.modules.update(comfy_api())
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    sys.modules[f"{PACK}.nodes.host"] = host
    spec.loader.exec_module(pack)
    return pack


def forget_pack() -> None:
    """Undo `import_pack`."""
    for name in [name for name in sys.modules if name.split(".")[0] in (PACK, "comfy_api")]:
        del sys.modules[name]
