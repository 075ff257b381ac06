"""Saved workflows (format 0.4) to API prompts, by a server's `object_info`, as the frontend does it."""

import copy
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"MarkdownNote", "Note"}
STAND_INS = {"CLIPLoader": "LiveTalkTestCLIPLoader", "CLIPVisionLoader": "LiveTalkTestCLIPVisionLoader"}
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    """A workflow."""
    return json.loads(path.read_text(encoding="utf-8"))


def named(name: str) -> Path:
    """The file of an example workflow."""
    return ROOT / "workflows" / f"{name}.json"


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API prompt; fails where a node or an input is unknown, or widgets and their values do not match up."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        info = object_info[node["type"]]
        inputs = widget_inputs(node, info)
        for socket in node["inputs"]:
            if socket["link"] is not None:
                inputs[socket["name"]] = links[socket["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def small(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same graph for small files and no GPU: stand-ins for two loaders, a small picture, one step a chunk."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] in STAND_INS:
            node |= {"class_type": STAND_INS[node["class_type"]], "inputs": {}}
        if node["class_type"] == "LiveTalkAvatar":
            node["inputs"] |= {"width": 64, "height": 64}
        if node["class_type"] == "LiveTalkDevices":
            node["inputs"]["devices"] = "cpu x2"
        if node["class_type"].startswith("LiveTalk") and "steps" in node["inputs"]:
            node["inputs"]["steps"] = 1
    return prompt


def ids_of(prompt: dict[str, Any]) -> dict[str, str]:
    """Number of the (last) node of each type."""
    return {node["class_type"]: number for number, node in prompt.items()}


def widget_inputs(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Widget values by name: one per widget in the schema's order, with the frontend's own ones skipped."""
    values = iter(node.get("widgets_values", []))
    inputs, uploads = {}, False
    for name, (kind, options) in described_inputs(info):
        uploads |= any(option.endswith("_upload") for option in options)
        if options.get("hidden"):
            next(values, None)
        elif options.get("forceInput"):
            continue
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            inputs |= dynamic_inputs(name, options, values)
        elif isinstance(kind, list) or kind in WIDGET_TYPES:
            inputs[name] = next(values)
            if options.get("control_after_generate"):
                assert next(values) in ("fixed", "increment", "decrement", "randomize")
    rest = list(values)
    assert not rest or uploads, f"{node['type']} has values without widgets: {rest}"
    return inputs


def dynamic_inputs(name: str, options: dict[str, Any], values: Any) -> dict[str, Any]:
    """A combo whose choice brings further widgets, called `name.widget`."""
    chosen = next(values)
    inputs = {name: chosen}
    option = next(option for option in options["options"] if option["key"] == chosen)
    for inner, (kind, inner_options) in described_inputs({"input": option["inputs"]}):
        if kind == "COMFY_DYNAMICCOMBO_V3":
            inputs |= dynamic_inputs(f"{name}.{inner}", inner_options, values)
        else:
            inputs[f"{name}.{inner}"] = next(values)
    return inputs


def described_inputs(info: dict[str, Any]) -> list[tuple[str, tuple[Any, dict[str, Any]]]]:
    """All inputs, required ones first: name, (type, options)."""
    listed = [item for group in ("required", "optional") for item in info["input"].get(group, {}).items()]
    return [(name, (kind, options[0] if options else {})) for name, (kind, *options) in listed]
