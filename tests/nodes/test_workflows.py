"""The example workflows, as files: complete, consistent, and in step with the nodes."""

import numpy as np
import pytest
from PIL import Image

from livetalk_core import __version__
from tests.browser.graphs import FILES
from tests.browser.graphs import WORKFLOWS as GRAPHS
from tests.nodes.test_schema import WIDGET_KINDS, WIDGETS
from tests.nodes.workflow import NOTES, WORKFLOWS, load, named

ROWS_OF_SEED = 2  # the number, and what to do with it after a run


def test_these_are_shipped():
    assert [path.stem for path in WORKFLOWS] == sorted(GRAPHS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_has_the_saved_format_and_a_picture(self, path):
        workflow = load(path)
        assert workflow["version"] == 0.4
        assert path.with_suffix(".jpg").read_bytes()[:2] == b"\xff\xd8"

    def test_says_where_its_nodes_come_from(self, path):
        for node in load(path)["nodes"]:
            if node["type"] in NOTES:
                continue
            ours = node["type"] in WIDGETS
            assert node["properties"]["cnr_id"] == ("livetalk" if ours else "comfy-core"), node["type"]
            assert node["properties"]["ver"] == __version__ or not ours

    def test_links_join_what_they_name(self, path):
        workflow = load(path)
        nodes = {node["id"]: node for node in workflow["nodes"]}
        for link, origin, slot, target, place, kind in workflow["links"]:
            assert nodes[target]["inputs"][place]["link"] == link
            assert link in nodes[origin]["outputs"][slot]["links"]
            assert nodes[origin]["outputs"][slot]["type"] in (kind, "*")  # a loop hands on any type

    def test_widgets_are_those_of_the_nodes(self, path, nodes):
        for node in load(path)["nodes"]:
            if node["type"] not in nodes:
                continue
            schema = nodes[node["type"]][1]
            widgets = [socket for socket in schema.inputs if socket.kind in WIDGET_KINDS]
            seeds = sum(socket.id == "seed" for socket in widgets)
            assert len(node.get("widgets_values", [])) == len(widgets) + seeds * (ROWS_OF_SEED - 1), node["type"]
            sockets = {socket.id for socket in schema.inputs if socket.kind not in WIDGET_KINDS}
            assert {i["name"] for i in node["inputs"] if not i.get("widget")} == sockets
            names = [socket.options["display_name"] for socket in schema.outputs]
            assert [output["name"] for output in node["outputs"]] == names

    def test_says_where_its_files_come_from(self, path):
        """For the frontend's offer to download them, and in words."""
        nodes = load(path)["nodes"]
        (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
        for node in nodes:
            files = [value for value in node.get("widgets_values") or [] if value in FILES]
            models = [{"name": name, "url": FILES[name][0], "directory": FILES[name][1]} for name in files]
            assert node["properties"].get("models", []) == models
            assert all(name in note and FILES[name][0] in note for name in files)
            assert all(model["url"].startswith("https://huggingface.co/") for model in models)

    def test_its_picture_shows_a_face(self, path):
        """At its left, as large as it goes: the drawn portrait, much lighter than the graph beside it."""
        with Image.open(path.with_suffix(".jpg")) as picture:
            pixels = np.asarray(picture.convert("L")).astype(np.float32)
        assert pixels[:, : pixels.shape[1] // 2].mean() > 120 > 100 > pixels[:, pixels.shape[1] * 3 // 4 :].mean()

    def test_its_note_holds_no_code(self, path):
        """Which nobody can read in Nodes 2.0."""
        (note,) = [node["widgets_values"][0] for node in load(path)["nodes"] if node["type"] == "MarkdownNote"]
        assert "`" not in note


def values_of(name, kind):
    """The widgets' values of a workflow's only node of that type."""
    (node,) = [node for node in load(named(name))["nodes"] if node["type"] == kind]
    return node["widgets_values"]


def test_infinitetalk_makes_six_evaluations_a_chunk():
    assert values_of("livetalk_infinitetalk", "LiveTalkGuidance")[:2] == [1, 1]
    assert values_of("livetalk_infinitetalk", "LoraLoaderModelOnly")[0].startswith("lightx2v_I2V_14B")
    steps = WIDGETS["LiveTalkRender"].index("steps") + ROWS_OF_SEED - 1
    assert values_of("livetalk_infinitetalk", "LiveTalkRender")[steps] == 6


def test_the_large_model_is_linked_where_its_file_is_asked_for():
    for name in ("livetalk_14b_24gb", "livetalk_14b_several_gpus"):
        assert "https://huggingface.co/Soul-AILab/SoulX-FlashTalk-14B" in values_of(name, "MarkdownNote")[0]


def test_every_node_is_shown_in_a_workflow():
    shown = {node["type"] for path in WORKFLOWS for node in load(path)["nodes"]}
    assert set(WIDGETS) <= shown
