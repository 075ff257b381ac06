"""Every example workflow in the real frontend: whole, nothing red, and the prompt that the backend tests run."""

import json

import numpy as np
import pytest

from tests.browser.conftest import SCREENSHOTS
from tests.nodes.workflow import BLUEPRINTS, ROOT, WORKFLOWS, load, to_prompt

pytestmark = pytest.mark.slow

OBJECT_INFO = json.loads((ROOT / "tests" / "browser" / "object_info.json").read_text(encoding="utf-8"))
DROP_FILE = """async ([name, count]) => {
    const data = await (await fetch(`/api/view?filename=${name}`)).blob();
    app.graph.clear();
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([data], name, { type: 'video/mp4' }));
    const place = { bubbles: true, cancelable: true, clientX: innerWidth / 2, clientY: innerHeight / 2, dataTransfer };
    for (const kind of ['dragenter', 'dragover', 'drop'])
        document.querySelector('#graph-canvas').dispatchEvent(new DragEvent(kind, place));
    for (let wait = 0; wait < 600 && app.graph.nodes.length < count; wait++)
        await new Promise(resolve => setTimeout(resolve, 100));
    return app.graph.nodes.map(n => n.type);
}"""
SHOWN = "() => Object.values(app.nodePreviewImages).flat().some(source => source.startsWith('blob:'))"


def plain(prompt):
    """A prompt's nodes and inputs, without what no server reads."""
    return {number: (node["class_type"], read_of(node)) for number, node in prompt.items()}


def read_of(node):
    """The inputs of a node that its schema names and does not hide."""
    described = OBJECT_INFO[node["class_type"]]["input"]
    inputs = {**described.get("required", {}), **described.get("optional", {})}
    shown = {name for name, (_, *options) in inputs.items() if not (options and options[0].get("hidden"))}
    frontend_only = {"audioUI", "upload"}
    return {name: v for name, v in node["inputs"].items() if name.split(".")[0] in shown and name not in frontend_only}


def complaints(page):
    """What the page says of missing nodes or models, if anything."""
    text = page.inner_text("body")
    return [line for line in text.splitlines() if "missing" in line.lower()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_loads_whole(page, frontend, path):
    from tests.browser.frontend import picture, report

    found = report(page, load(path))
    picture(page, SCREENSHOTS / frontend / f"{path.stem}.png")
    assert len(found["nodes"]) == len(load(path)["nodes"])
    assert not found["missing"] and not found["red"] and not found["widgets"]
    assert not complaints(page)
    assert plain(found["prompt"]) == plain(to_prompt(load(path), OBJECT_INFO))


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_blueprint_loads_whole(page, frontend, path):
    from tests.browser.frontend import picture, report

    found = report(page, load(path))
    picture(page, SCREENSHOTS / frontend / "blueprint.png")
    assert not found["missing"] and not found["red"]
    assert {"LiveTalkEmbeddedModel", "LiveTalkAvatar", "LiveTalkEncodeSpeech", "LiveTalkRender"} < set(found["nodes"])
    (definition,) = load(path)["definitions"]["subgraphs"]
    assert [(socket["name"], socket["type"]) for socket in definition["inputs"]][:2] == [
        ("image", "IMAGE"),
        ("audio", "AUDIO"),
    ]
    assert [socket["type"] for socket in definition["outputs"]] == ["VIDEO"]


def test_a_finished_video_dropped_into_the_page_brings_its_workflow_back(page):
    from livetalk_core.media.video import VideoWriter

    path, workflow = page.files / "finished.mp4", load(ROOT / "workflows" / "livetalk_quick_start.json")
    if not path.exists():
        tags = {"workflow": json.dumps(workflow), "prompt": json.dumps(to_prompt(workflow, OBJECT_INFO))}
        writer = VideoWriter.create(path, 64, 64, metadata=tags)
        writer.write(np.zeros((5, 64, 64, 3), np.uint8))
        writer.finish()
    types = [node["type"] for node in workflow["nodes"]]
    assert page.evaluate(DROP_FILE, [path.name, len(types)]) == types


def test_a_preview_is_shown_on_the_node(page):
    """A frame as the server sends it while a render runs."""
    from tests.browser.frontend import report

    report(page, load(ROOT / "workflows" / "livetalk_quick_start.json"))
    page.stub.push_preview(page.evaluate("() => app.graph.nodes.find(n => n.type === 'LiveTalkRender').id"))
    page.wait_for_function(SHOWN, timeout=60_000)
