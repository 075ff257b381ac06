"""Has the real frontend save the example workflows: `python -m tests.browser.save_workflows`.

Builds each graph of `graphs.py` in the frontend's own page, as a user would by hand, and writes what it saves, with a
thumbnail, to `workflows/`.
"""

import io
import json
import uuid
from pathlib import Path
from typing import Any

from PIL import Image

from livetalk_core import __version__
from tests.browser.frontend import PINNED, ROOT, SETTINGS, opened, picture, static_files
from tests.browser.graphs import WORKFLOWS, Node
from tests.browser.stub import running

OBJECT_INFO = Path(__file__).with_name("object_info.json")
WORKFLOWS_FOLDER = ROOT / "workflows"
THUMBNAIL = (640, 392)

BUILD = """async (nodes) => {
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
    return app.graph.serialize();
}"""


def finished(workflow: dict[str, Any], name: str, nodes: list[Node]) -> dict[str, Any]:
    """The saved graph with a lasting id and our nodes' version."""
    ours = {node.type for node in nodes if node.type.startswith("LiveTalk")}
    for node in workflow["nodes"]:
        if node["type"] in ours:
            node["properties"]["ver"] = __version__
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"livetalk/{name}"))
    return workflow


def thumbnail(screenshot: Path, target: Path) -> None:
    """A small JPEG of a screenshot."""
    with Image.open(screenshot) as image:
        image.convert("RGB").resize(THUMBNAIL, Image.Resampling.LANCZOS).save(target, quality=85)


def save_all() -> None:
    """Write every workflow and its picture."""
    static = static_files(PINNED)
    assert static, f"frontend {PINNED} is not installed: make frontends"
    screenshot = io.BytesIO()
    with running(static, OBJECT_INFO, SETTINGS, ROOT / "demo") as stub, opened(stub.address) as page:
        for name, make in WORKFLOWS.items():
            nodes = make()
            workflow = finished(page.evaluate(BUILD, [node.as_dict() for node in nodes]), name, nodes)
            path = WORKFLOWS_FOLDER / f"{name}.json"
            path.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
            shot = Path("/tmp") / f"{name}.png"
            picture(page, shot)
            thumbnail(shot, path.with_suffix(".jpg"))


if __name__ == "__main__":
    save_all()
