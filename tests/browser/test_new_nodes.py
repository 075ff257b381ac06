"""The example workflows in Nodes 2.0, where nodes and widgets are elements of the page."""

import numpy as np
import pytest

from tests.browser.conftest import SCREENSHOTS
from tests.browser.test_workflows import complaints
from tests.nodes.workflow import WORKFLOWS, load, named

pytestmark = pytest.mark.slow

# What each node shows: its text, and the widgets whose names are not in it.
SHOWN = """() => Object.fromEntries(app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const text = element?.innerText ?? '';
    const kinds = ['number', 'combo', 'toggle', 'text', 'string', 'customtext'];
    const shown = (node.widgets ?? []).filter(w => kinds.includes(w.type) && w.name !== 'control_after_generate'
        && !w.hidden && !w.advanced && !w.options?.hidden && !w.options?.advanced);
    const lost = shown.filter(w => !text.includes(w.label ?? w.name)).map(w => w.name);
    return [node.type, { there: !!element, text, lost, width: element?.clientWidth, height: element?.clientHeight }];
}))"""
INSIDE = """([node, what]) => !!document.querySelector(`[data-node-id="${node}"] ${what}`)"""

PLAYS = "node => document.querySelector(`[data-node-id='${node}'] video`)?.videoWidth === 64"


def render_node(page):
    return page.evaluate("() => app.graph.nodes.find(n => n.type === 'LiveTalkRender').id")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_shown_whole(new_page, frontend, path):
    from tests.browser.frontend import picture, report

    found = report(new_page, load(path))
    picture(new_page, SCREENSHOTS / frontend / f"{path.stem}_new_nodes.png")
    assert not found["missing"] and not found["red"] and not complaints(new_page)
    shown = new_page.evaluate(SHOWN)
    assert set(shown) == set(found["nodes"])
    assert not [name for name, node in shown.items() if not node["there"] or node["width"] < 150]
    lost = {name: node["lost"] for name, node in shown.items() if node["lost"] and name.startswith("LiveTalk")}
    assert not lost


def test_preview_is_shown_on_the_node(new_page, frontend):
    from tests.browser.frontend import picture, report

    report(new_page, load(named("livetalk_quick_start")))
    node = render_node(new_page)
    new_page.stub.push_preview(node)
    new_page.wait_for_function(INSIDE, arg=[node, 'img[src^="blob:"]'], timeout=60_000)
    picture(new_page, SCREENSHOTS / frontend / "preview_new_nodes.png")


def test_finished_video_plays_on_the_node(new_page, frontend):
    from livetalk_core.media.video import VideoWriter
    from tests.browser.frontend import picture, report

    writer = VideoWriter.create(new_page.files / "made.mp4", 64, 64)
    writer.write(np.full((25, 64, 64, 3), 99, np.uint8))
    writer.finish()
    report(new_page, load(named("livetalk_two_speakers")))
    node = render_node(new_page)
    new_page.stub.push_video(node, "made.mp4")
    new_page.wait_for_function(PLAYS, arg=node, timeout=60_000)
    picture(new_page, SCREENSHOTS / frontend / "video_new_nodes.png")
