"""What the page shows of nodes that have run, on the canvas and in Nodes 2.0: their place, their words, their video."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from livetalk_core.media.coding import CODECS
from tests.browser.conftest import SCREENSHOTS, page_with
from tests.browser.examples import KINDS
from tests.nodes.workflow import BLUEPRINTS, WORKFLOWS, load, named

pytestmark = pytest.mark.slow

# Pairs of nodes whose boxes, title included, have a part in common.
OVERLAPS = """() => {
    const title = LiteGraph.NODE_TITLE_HEIGHT, slack = 2;
    const box = node => {
        const element = LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
        if (!element) return [node.pos[0], node.pos[1] - title, node.pos[0] + node.size[0], node.pos[1] + node.size[1]];
        const { left, top, right, bottom } = element.getBoundingClientRect();
        return [left, top, right, bottom].map(side => side / app.canvas.ds.scale);
    };
    const boxes = app.graph.nodes.map(node => [node.title, box(node)]);
    return boxes.flatMap(([name, a], index) => boxes.slice(index + 1)
        .filter(([, b]) => a[0] < b[2] - slack && b[0] < a[2] - slack && a[1] < b[3] - slack && b[1] < a[3] - slack)
        .map(([other, b]) => `${name} [${a.map(Math.round)}] and ${other} [${b.map(Math.round)}]`));
}"""
TEAL = (0, 128, 128)
OUTER = "() => app.graph.nodes.find(node => node.isSubgraphNode?.()).id"
INNER = """type => {
    const outer = app.graph.nodes.find(node => node.isSubgraphNode?.());
    return `${outer.id}:${outer.subgraph.nodes.find(node => node.type === type).id}`;
}"""
# As the node library adds one.
ADD_BLUEPRINT = """({ nodes, definitions }) =>
    void app.canvas._deserializeItems({ nodes, subgraphs: definitions.subgraphs }, { position: [900, 700] })"""
SEEN_VIDEOS = """() => {
    app.canvas.setDirty(true, true);
    const videos = [...document.querySelectorAll('video')].filter(v => v.getBoundingClientRect().width > 20);
    return videos.map(v => v.videoWidth);
}"""
FAILED = "() => /failed to load|Error loading/.test(document.body.innerText)"
NODE = "type => app.graph.nodes.find(node => node.type === type)?.id"
SAID = "node => app.graph.getNodeById(node).widgets.find(w => w.name === '$$node-text-preview')?.value"
CROP_VIEW = "() => document.querySelector('canvas.livetalk-crop')?.width > 100"
CROP = "() => app.graph.nodes.find(n => n.type === 'LiveTalkAvatar').widgets.find(w => w.name === 'crop').value"
TRACKER = "app.extensionManager.workflow.activeWorkflow.changeTracker"
VIDEOS = """() => {
    app.canvas.setDirty(true, true);
    return [...document.querySelectorAll('video')].filter(v => v.videoWidth === 64).length;
}"""


@pytest.fixture(scope="module", params=KINDS)
def shown(request, frontend, tmp_path_factory):
    """A page of each kind."""
    from tests.browser.frontend import SETTINGS_OF

    with page_with(SETTINGS_OF[request.param], frontend, tmp_path_factory.mktemp("files")) as page:
        page.kind = request.param
        yield page


def opened(page, path):
    """The workflow on the page, all of it in view."""
    from tests.browser.frontend import FIT, report

    report(page, load(path))
    page.evaluate(FIT)
    if page.evaluate(NODE, "LiveTalkAvatar"):
        page.wait_for_function(CROP_VIEW)


def video(page, codec="h264"):
    """Name of a short video that the page can have."""
    from livetalk_core.media.coding import Coding
    from livetalk_core.media.video import VideoWriter

    path = page.files / f"{codec}.mp4"
    if not path.exists():
        writer = VideoWriter.create(path, 64, 64, coding=Coding(codec))
        writer.write(np.full((25, 64, 64, 3), 99, np.uint8))
        writer.finish()
    return path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_stand_apart_before_and_after_a_run(shown, frontend, path):
    from tests.browser.frontend import picture

    opened(shown, path)
    shown.wait_for_timeout(500)
    assert not shown.evaluate(OVERLAPS)
    if avatar := shown.evaluate(NODE, "LiveTalkAvatar"):
        shown.stub.push_text(avatar, "512x512 px, of 1024x768")
    if render := shown.evaluate(NODE, "LiveTalkRender"):
        shown.stub.push_text(render, "153 of 153 frames, 25.0 per second, 0 s left")
        shown.stub.push_video(render, video(shown))
        shown.wait_for_function(f"() => ({VIDEOS})() === 1")
    shown.wait_for_timeout(1500)
    picture(shown, SCREENSHOTS / frontend / f"{path.stem}_{shown.kind}_run.png")
    assert not shown.evaluate(OVERLAPS)


def test_a_video_that_the_browser_does_not_play_is_offered_as_a_file(shown, frontend):
    from tests.browser.frontend import picture

    opened(shown, named("livetalk_quick_start"))
    node = shown.evaluate(NODE, "LiveTalkRender")
    assert not shown.evaluate("""() => document.createElement('video').canPlayType('video/mp4; codecs="hvc1"')""")
    shown.stub.push_video(node, "talk.mp4", "h265")
    shown.wait_for_function(f"node => ({SAID})(node)?.includes('talk.mp4')", arg=node)
    assert shown.evaluate(SAID, node).startswith("h265, which this browser does not play: http://127.0.0.1")
    shown.wait_for_selector('a[href$="/view?filename=talk.mp4&type=output"]', state="attached")
    shown.wait_for_timeout(1000)
    picture(shown, SCREENSHOTS / frontend / f"h265_{shown.kind}.png")
    assert not shown.evaluate("() => /failed to load|Error loading/.test(document.body.innerText)")
    assert not shown.evaluate("() => document.querySelectorAll('video').length")


def wait_until(condition, seconds=60):
    """Look again and again, as what the page draws tells nobody."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def teal(page):
    """How much of the page is of the colour of the stub's preview."""
    page.evaluate("() => app.canvas.setDirty(true, true)")
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    return float((np.abs(pixels - TEAL).max(-1) < 8).mean())


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprints_node_shows_the_preview_the_words_and_the_video_of_what_is_in_it(shown, frontend, path):
    opened(shown, path)
    two_runs_are_shown(shown, SCREENSHOTS / frontend / f"blueprint_{shown.kind}")


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_added_to_a_graph_shows_them_too(shown, frontend, path):
    """Where its nodes get other ids than in the blueprint."""
    from tests.browser.frontend import FIT

    opened(shown, named("livetalk_quick_start"))
    shown.evaluate(ADD_BLUEPRINT, load(path))
    shown.evaluate(FIT)
    two_runs_are_shown(shown, SCREENSHOTS / frontend / f"blueprint_added_{shown.kind}")


def two_runs_are_shown(shown, kept):
    """Preview, words and video of two runs, one behind the other, on the only subgraph's node."""
    from tests.browser.frontend import picture

    outer, inner = shown.evaluate(OUTER), shown.evaluate(INNER, "LiveTalkRender")
    for run in (1, 2):
        shown.stub.push_preview(inner)
        wait_until(lambda: teal(shown) > 0.003)
        shown.stub.push_text(inner, f"run {run}, 153 of 153 frames")
        shown.wait_for_function(f"node => ({SAID})(node)?.startsWith('run {run}')", arg=outer)
        assert not shown.evaluate(SEEN_VIDEOS)
        shown.stub.drop_preview(str(outer), inner)
        shown.wait_for_timeout(1000)
        shown.stub.push_video(inner, video(shown))
        shown.wait_for_function(f"() => `${{({SEEN_VIDEOS})()}}` === '64'")
        shown.wait_for_timeout(1500)
        picture(shown, kept.with_name(f"{kept.name}_run_{run}.png"))
        assert shown.evaluate(SEEN_VIDEOS) == [64]
        assert teal(shown) < 0.0005
        assert not shown.evaluate(FAILED)
        assert f"run {run}, 153 of 153 frames" in shown.evaluate(SAID, outer)


@pytest.mark.skipif("av1" not in CODECS, reason="this PyAV writes no AV1")
def test_a_video_in_av1_plays_where_the_browser_knows_it(shown):
    opened(shown, named("livetalk_quick_start"))
    node = shown.evaluate(NODE, "LiveTalkRender")
    shown.stub.push_video(node, video(shown, "av1"), "av1")
    shown.wait_for_function(f"() => ({VIDEOS})() === 1")
    assert not shown.evaluate(SAID, node)


def test_a_crop_that_is_drawn_is_one_step_to_undo(shown):
    opened(shown, named("livetalk_quick_start"))
    view, mouse = shown.locator("canvas.livetalk-crop").bounding_box(), shown.mouse
    at = [(view["x"] + part * view["width"], view["y"] + part * view["height"]) for part in (0.2, 0.5, 0.8)]
    mouse.move(*at[0])
    mouse.down()
    for point in at[1:]:
        mouse.move(*point)
    mouse.up()
    assert shown.evaluate(CROP) == "box"
    shown.evaluate(f"() => {TRACKER}.undo()")
    shown.wait_for_function(f"() => ({CROP})() === 'center'", timeout=20_000)
    shown.evaluate(f"() => {TRACKER}.redo()")
    shown.wait_for_function(f"() => ({CROP})() === 'box'", timeout=20_000)


def test_what_is_told_late_is_shown_in_the_graph_that_ran_alone(shown):
    opened(shown, named("livetalk_quick_start"))
    node = shown.evaluate(NODE, "LiveTalkRender")
    output = {"images": [{"filename": video(shown), "subfolder": "", "type": "output"}], "animated": [True]}
    late = {"node": str(node), "display_node": str(node), "output": output, "prompt_id": "p"}
    shown.stub.push_text(node, "153 of 153 frames")
    shown.stub.push({"type": "livetalk_shown", "data": late})
    shown.wait_for_function(f"() => ({VIDEOS})() === 1")
    opened(shown, named("livetalk_two_speakers"))
    assert shown.evaluate("node => !!app.graph.getNodeById(node)", node)
    shown.stub.push({"type": "livetalk_shown", "data": late})
    shown.wait_for_timeout(1500)
    assert shown.evaluate(VIDEOS) == 0
