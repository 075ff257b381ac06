"""What the nodes show: ids, explanations, help pages; and the seam between the nodes and `nodes/host`."""

import ast
import inspect
from pathlib import Path

import pytest

from tests.nodes.fake_host import FakeHost

ROOT = Path(__file__).resolve().parents[2]
WIDGET_KINDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

# Workflows store widgets by position: a line may grow at its end, and change in no other way.
WIDGETS = {
    "LiveTalkEmbeddedModel": [],
    "LiveTalkLoadModel": ["model_name", "model_patch", "weight_dtype"],
    "LiveTalkGuidance": ["text_guidance", "audio_guidance"],
    "LiveTalkLoadVAE": ["vae_name"],
    "LiveTalkLoadAudioEncoder": ["encoder_name"],
    "LiveTalkDevices": ["devices", "shard_weights", "send_fp8", "mesh", "hosts", "memory"],
    "LiveTalkEncodeSpeech": ["mode", "audio_offset"],
    "LiveTalkAvatar": ["width", "height", "prompt", "crop", "crop_box"],
    "LiveTalkSampleChunk": ["seed", "steps"],
    "LiveTalkDecodeChunk": ["overlap"],
    "LiveTalkRender": [
        "seed",
        "filename_prefix",
        "resume",
        "steps",
        "collect_images",
        "codec",
        "crf",
        "save_output",
    ],
    "LiveTalkLive": ["seed", "port", "filename_prefix", "steps"],
    "LiveTalkPrompt": ["prompt", "from_second"],
    "LiveTalkCorrection": ["color_correction", "retrospection", "threshold", "interval", "lookback", "join"],
    "LiveTalkJobStart": ["filename_prefix", "resume", "job", "codec", "crf"],
    "LiveTalkJobEnd": [],
}


def schema_of(nodes, node_id):
    return nodes[node_id][1]


def test_the_pack_has_these_nodes(nodes):
    assert set(nodes) == set(WIDGETS)


def test_the_pack_hands_out_one_way_in_and_its_help(pack):
    names = {name for name in vars(pack()) if not name.startswith("_") and name not in ("nodes", "livetalk_core")}
    assert names == {"comfy_entrypoint", "WEB_DIRECTORY"}
    assert (ROOT / pack().WEB_DIRECTORY / "docs").is_dir()
    assert [file.name for file in (ROOT / "web").rglob("*.js")] == ["livetalk.js"]


@pytest.mark.parametrize("node_id", WIDGETS)
class TestNode:
    def test_is_listed_under_livetalk(self, nodes, node_id):
        schema = schema_of(nodes, node_id)
        assert schema.category == "LiveTalk"
        assert schema.display_name.startswith("LiveTalk ")
        assert schema.description.endswith(".")

    def test_explains_every_input_and_output(self, nodes, node_id):
        schema = schema_of(nodes, node_id)
        assert not [socket.id for socket in schema.inputs if not socket.options.get("tooltip")]
        assert not [s for s in schema.outputs if not s.options.get("tooltip") or not s.options.get("display_name")]

    def test_has_a_help_page_that_names_them(self, nodes, node_id):
        schema = schema_of(nodes, node_id)
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema.display_name}\n\n![{schema.display_name}]({node_id}.jpg)\n")
        assert (ROOT / "web" / "docs" / f"{node_id}.jpg").read_bytes()[:2] == b"\xff\xd8"
        names = [socket.id for socket in schema.inputs] + [socket.options["display_name"] for socket in schema.outputs]
        rows = [cell for line in page.splitlines() if line.startswith("|") for cell in line.split("|")[1].split(",")]
        assert not set(names) - {cell.strip() for cell in rows}

    def test_keeps_the_order_of_its_widgets(self, nodes, node_id):
        schema = schema_of(nodes, node_id)
        assert [socket.id for socket in schema.inputs if socket.kind in WIDGET_KINDS] == WIDGETS[node_id]

    def test_executes_with_exactly_its_inputs(self, nodes, node_id):
        cls, schema = nodes[node_id]
        parameters = inspect.signature(cls.execute).parameters
        optional = {socket.id for socket in schema.inputs if socket.options.get("optional")}
        assert set(parameters) == {socket.id for socket in schema.inputs}
        assert optional == {name for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def names_used_of_host():
    """Every `host.X` in the node files."""
    for file in (ROOT / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "host":
                yield node.attr


def defines(node, name):
    """Whether a statement at the top of a module defines the function or class `name`."""
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name


def parameters_of(found):
    """Parameter names of a function, or of a class's __init__."""
    if isinstance(found, ast.ClassDef):
        found = next(node for node in found.body if getattr(node, "name", None) == "__init__")
    args = found.args
    return [arg.arg for arg in [*args.args, *([args.vararg] if args.vararg else [])] if arg.arg != "self"]


@pytest.mark.parametrize("name", sorted(set(names_used_of_host())))
def test_the_fake_host_has_the_real_ones_verbs(name):
    files = (ROOT / "nodes" / "host").glob("*.py")
    found = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body if defines(node, name)]
    assert len(found) == 1, f"nodes/host has no {name}, or two"
    fake = inspect.signature(getattr(FakeHost, name)).parameters
    assert [p for p in fake if p != "self"] == parameters_of(found[0])
