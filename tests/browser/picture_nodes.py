"""Pictures of the nodes for their help pages: `python -m tests.browser.picture_nodes`."""

import io
import json

from PIL import Image
from playwright.sync_api import Page

from tests.browser.examples import PINNED
from tests.browser.frontend import OBJECT_INFO, ROOT, SETTINGS, opened, static_files
from tests.browser.stub import running

PAGES = ROOT / "web" / "docs"
MARGIN = 30
SHOW = """([type, scale]) => {
    app.clean?.();
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [300 / scale, 200 / scale];
    node.setSize([Math.max(340, node.size[0]), node.computeSize()[1]]);
    app.canvas.deselectAll?.();
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    return [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title].map(v => v * scale);
}"""


def picture(page: Page, node_id: str) -> None:
    """Write `web/docs/<node_id>.jpg`: the node as it comes into a graph."""
    left, top, width, height = page.evaluate(SHOW, [node_id, 1.5])
    page.wait_for_timeout(700)
    clip = {"x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as image:
        image.convert("RGB").save(PAGES / f"{node_id}.jpg", quality=85)


def picture_all() -> None:
    """Write a picture of every node of the pack."""
    static = static_files(PINNED)
    assert static, f"frontend {PINNED} is not installed: make install"
    names = [name for name in json.loads(OBJECT_INFO.read_text(encoding="utf-8")) if name.startswith("LiveTalk")]
    with running(static, OBJECT_INFO, SETTINGS, ROOT / "demo") as stub, opened(stub.address) as page:
        for name in names:
            picture(page, name)


if __name__ == "__main__":
    picture_all()
