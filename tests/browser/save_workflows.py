"""Has the real frontend save the example workflows: `python -m tests.browser.save_workflows`.

Builds each graph of `graphs.py` in the frontend's own page, as a user would by hand, and writes what it saves, with a
thumbnail, to `workflows/`.
"""

import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from livetalk_core import __version__
from tests.browser.examples import PINNED
from tests.browser.frontend import ROOT, SETTINGS, opened, picture, static_files
from tests.browser.graphs import WORKFLOWS, Node, quick_start
from tests.browser.stub import place_examples, running

OBJECT_INFO = Path(__file__).with_name("object_info.json")
WORKFLOWS_FOLDER = ROOT / "workflows"
BLUEPRINTS = ROOT / "subgraphs"
BLUEPRINT = "Portrait and Speech to Video (LiveTalk)"
DESCRIPTION = "A portrait and a speech in, a talking video out, by LiveTalk's embedded model."
PREVIEW = "$$canvas-image-preview"
"""The frontend's name of what a node shows while it runs, and of its finished picture or video."""
THUMBNAIL = (700, 390)
FACES = ROOT / "docs" / "demo.jpg"
"""Frames of the quick start's own video, side by side, the portrait first."""
SHOWN_FACES = {"livetalk_two_speakers": (1, 3), "livetalk_live": (1,), "livetalk_quick_start": (3,)}
"""Which of them a workflow's picture shows; of what they do not show, the portrait alone."""
PORTRAIT = (0,)

BUILD = """async (nodes) => {
    app.clean?.();
    app.graph.clear();
    const made = {};
    for (const spec of nodes) {
        const node = LiteGraph.createNode(spec.type);
        app.graph.add(node);
        made[spec.name] = node;
        node.pos = [...spec.pos];
        if (spec.title) node.title = spec.title;
        for (const [name, value] of Object.entries(spec.widgets)) {
            const widget = node.widgets.find(w => w.name === name || (name === '' && w.name !== undefined));
            if (!widget) throw new Error(`${spec.type} has no widget ${name}`);
            widget.value = value;
            widget.callback?.(value);
        }
        Object.assign(node.properties, spec.properties);
        if (spec.size) node.setSize([...spec.size]);
    }
    for (const spec of nodes)
        for (const [name, [origin, slot]] of Object.entries(spec.links)) {
            const place = made[spec.name].findInputSlot(name);
            if (place < 0) throw new Error(`${spec.type} has no input ${name}`);
            if (!made[origin].connect(slot, made[spec.name], place)) throw new Error(`${spec.type}.${name} refused`);
        }
    await new Promise(resolve => setTimeout(resolve, 300));
    return JSON.stringify((await app.graphToPrompt()).workflow);
}"""

# All but what the user brings becomes one node; the rest goes.
FOLD = """async ([inside, name, description]) => {
    const nodes = app.graph.nodes.filter(n => inside.includes(n.type));
    const { subgraph, node } = app.graph.convertToSubgraph(new Set(nodes));
    subgraph.name = node.title = name;
    subgraph.extra = { ...subgraph.extra, description };
    for (const other of [...app.graph.nodes]) if (other !== node) app.graph.remove(other);
    node.pos = [400, 200];
    return JSON.stringify((await app.graphToPrompt()).workflow);
}"""


def finished(saved: str, name: str, nodes: list[Node]) -> dict[str, Any]:
    """The saved graph with a lasting id and our nodes' version."""
    workflow = json.loads(saved)
    ours = {node.type for node in nodes if node.type.startswith("LiveTalk")}
    for node in workflow["nodes"]:
        if node["type"] in ours:
            node["properties"]["ver"] = __version__
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"livetalk/{name}"))
    return workflow


def thumbnail(screenshot: Path, name: str, target: Path) -> None:
    """A small JPEG: what a workflow makes, and its graph beside it."""
    with Image.open(screenshot) as image, Image.open(FACES) as faces:
        picture, left = Image.new("RGB", THUMBNAIL, "#1b1b1f"), 0
        shown, side = SHOWN_FACES.get(name, PORTRAIT), faces.height
        width = THUMBNAIL[1] if len(shown) == 1 else round(0.65 * THUMBNAIL[1])
        for index in shown:
            face = faces.crop((index * side, 0, (index + 1) * side, side)).resize((THUMBNAIL[1], THUMBNAIL[1]))
            cut = (THUMBNAIL[1] - width) // 2
            picture.paste(face.crop((cut, 0, cut + width, THUMBNAIL[1])), (left, 0))
            left += width
        graph = image.convert("RGB")
        graph.thumbnail((THUMBNAIL[0] - left - 10, THUMBNAIL[1]), Image.Resampling.LANCZOS)
        picture.paste(graph, (left + 5, (THUMBNAIL[1] - graph.height) // 2))
        picture.save(target, quality=85)


def save_all() -> None:
    """Write every workflow and its picture."""
    static = static_files(PINNED)
    assert static, f"frontend {PINNED} is not installed: make frontends"
    with (
        tempfile.TemporaryDirectory() as folder,
        running(static, OBJECT_INFO, SETTINGS, Path(folder)) as stub,
        opened(stub.address) as page,
    ):
        place_examples(Path(folder))
        for name, make in WORKFLOWS.items():
            nodes = make()
            workflow = finished(page.evaluate(BUILD, [node.as_dict() for node in nodes]), name, nodes)
            path = WORKFLOWS_FOLDER / f"{name}.json"
            path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
            shot = Path(folder) / f"{name}.png"
            picture(page, shot)
            thumbnail(shot, name, path.with_suffix(".jpg"))
        save_blueprint(page)


def save_blueprint(page: Page) -> None:
    """One node that turns a portrait and a speech into a video, for the node library.

    It exposes the render node's preview, for Nodes 2.0; on the canvas `web/livetalk.js` shows it.
    """
    save = Node("save", "SaveVideo", (1300, 200), {}, {"video": ("render", 0)})  # so that the video leaves the node
    nodes = [*quick_start()[:-1], save]
    inside = [node.type for node in nodes if node.type.startswith("LiveTalk")]
    page.evaluate(BUILD, [node.as_dict() for node in nodes])
    workflow = finished(page.evaluate(FOLD, [inside, BLUEPRINT, DESCRIPTION]), BLUEPRINT, [])
    (definition,) = workflow["definitions"]["subgraphs"]
    definition |= {"category": "LiveTalk", "description": DESCRIPTION}
    for node in definition["nodes"]:
        node["properties"]["ver"] = __version__
    (render,) = (node["id"] for node in definition["nodes"] if node["type"] == "LiveTalkRender")
    (outer,) = workflow["nodes"]
    exposed = {"name": PREVIEW, "sourceNodeId": str(render), "sourcePreviewName": PREVIEW}
    outer["properties"]["previewExposures"] = [exposed]
    BLUEPRINTS.mkdir(exist_ok=True)
    (BLUEPRINTS / f"{BLUEPRINT}.json").write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    save_all()
