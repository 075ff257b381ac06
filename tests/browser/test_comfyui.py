"""A render in a real ComfyUI, watched in a real browser: the preview moves, then the finished video plays in its place.

Needs Chromium and, in COMFYUI_PATH, a ComfyUI.
"""

import wave

import pytest

from tests.browser.conftest import SCREENSHOTS
from tests.nodes.comfy_server import ComfyServer
from tests.nodes.workflow import BLUEPRINTS, ROOT, load, named

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

QUEUE = """() => {
    window.ended = '';
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, ({ detail }) => window.ended = kind + (detail.exception_message ?? ''));
    for (const widget of app.graph.nodes.find(n => n.type === 'LiveTalkAvatar').widgets)
        if (['width', 'height'].includes(widget.name)) widget.value = 64;
    app.queuePrompt(0);
}"""
COUNT_ENDS = "() => { window.ends = 0; app.api.addEventListener('execution_success', () => window.ends++) }"
ANOTHER_SEED = """() => {
    for (const widget of app.graph.nodes.find(n => n.type === 'LiveTalkRender').widgets)
        if (widget.name === 'seed') widget.value = 7;
    app.queuePrompt(0);
}"""
PARTIAL = """() => {
    app.canvas.setDirty(true, true);
    return [...document.querySelectorAll('video')].some(v => v.src.includes('.partial.mp4') && v.videoWidth === 64);
}"""
CROP_VIEW = "() => document.querySelector('canvas.livetalk-crop')?.width > 100"
SMALL = {"width": 700, "height": 500}
"""Drawn without a graphics card, a large page would fall behind the preview."""
PREVIEW = "() => Object.values(app.nodePreviewImages).flat().length > 0"
SAID = """() => {
    const said = app.graph.nodes.find(n => n.type === 'LiveTalkRender').widgets;
    return said.find(w => w.name === '$$node-text-preview')?.value ?? '';
}"""
"""What the render node says; frontend 1.58 takes it away when a run ends."""
LEFT_OVER = """() => {
    const left = ['$$comfy_animation_preview', '$$canvas-image-preview'];
    return app.graph.nodes.find(n => n.type === 'LiveTalkRender').widgets.some(w => left.includes(w.name));
}"""
"""On the canvas: the preview's last picture, small, above the video, or its empty room."""
FAILED_VIDEO = "() => /failed to load|Error loading/.test(document.body.innerText)"
VIDEO = """() => {
    app.canvas.setDirty(true, true);
    return [...document.querySelectorAll('video')].some(v => v.src.includes('/view?') && v.videoWidth === 64);
}"""


BLUEPRINT = """([image, audio]) => {
    window.ends = 0;
    app.api.addEventListener('execution_success', () => window.ends++);
    const outer = app.graph.nodes.find(n => n.isSubgraphNode?.());
    for (const [slot, [type, file]] of [['LoadImage', image], ['LoadAudio', audio]].entries()) {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        node.pos = [0, 420 * slot + 100];
        node.widgets[0].value = file;
        node.connect(0, outer, slot);
    }
    for (const widget of outer.subgraph.nodes.find(n => n.type === 'LiveTalkAvatar').widgets)
        if (['width', 'height'].includes(widget.name)) widget.value = 64;
}"""
NEXT_OUTER_SEED = """() => {
    app.graph.nodes.find(n => n.isSubgraphNode?.()).widgets.find(w => w.name === 'seed').value++;
    app.queuePrompt(0);
}"""
OUTER_PREVIEW = """() => {
    app.canvas.setDirty(true, true);
    const outer = app.graph.nodes.find(n => n.isSubgraphNode?.());
    const room = outer.widgets.some(w => w.name === '$$canvas-image-preview');
    const shown = LiteGraph.vueNodesMode ? document.querySelectorAll(`[data-node-id="${outer.id}"] img`)
        : room ? outer.imgs ?? [] : [];
    return [...shown].some(image => image.src.startsWith('blob:') && image.naturalWidth);
}"""
OUTER_SAID = """() => app.graph.nodes.find(n => n.isSubgraphNode?.())
    .widgets.find(w => w.name === '$$node-text-preview')?.value ?? ''"""
VIDEOS_IN_VIEW = """() => {
    app.canvas.setDirty(true, true);
    const videos = [...document.querySelectorAll('video')].filter(v => v.getBoundingClientRect().width > 20);
    return videos.map(v => v.videoWidth);
}"""
FREE_PORT = """() => {
    app.graph.nodes.find(n => n.type === 'LiveTalkLive').widgets.find(w => w.name === 'port').value = 0;
}"""
LIVE_PAGE = """() => {
    const said = app.graph.nodes.find(n => n.type === 'LiveTalkLive').widgets;
    return said.find(w => w.name === '$$node-text-preview')?.value?.match(/http:[^ ]*/)?.[0];
}"""
LIVE_SAID = SAID.replace("LiveTalkRender", "LiveTalkLive")
SHOWS_OR_ASKS = """() => {
    const of = name => document.getElementById(name);
    return of('veil').classList.contains('gone') ? 'shows' : !of('start').hidden && 'asks';
}"""
"""Of the live page: whether its video plays, or needs a click first, as browsers may ask for."""
SPEAKS = "() => document.getElementById('badge').dataset.state === 'speaking'"


@pytest.fixture
def server(comfyui, base, frontend, new_nodes):
    """A server with that frontend, and the user's choice of nodes."""
    from tests.browser.frontend import NEW_NODES, SETTINGS, static_files, use

    use(base, NEW_NODES if new_nodes else SETTINGS)
    running = ComfyServer(comfyui, base, "--front-end-root", str(static_files(frontend)))
    yield running
    running.close()


@pytest.mark.parametrize("new_nodes", [False, True], ids=["canvas", "nodes2"])
def test_preview_then_the_finished_video_on_the_node(server, frontend, new_nodes):
    from tests.browser.frontend import FIT, SIZE, opened, picture, report

    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        report(page, load(named("livetalk_quick_start")))
        page.evaluate(QUEUE)
        page.wait_for_function(PREVIEW)
        page.wait_for_function("() => window.ended")
        assert page.evaluate("() => window.ended") == "execution_success"
        page.set_viewport_size(SIZE)
        page.evaluate(FIT)
        try:
            page.wait_for_function(VIDEO, timeout=60_000)
        finally:
            picture(page, SCREENSHOTS / frontend / f"rendered_{'nodes2' if new_nodes else 'canvas'}.png")
        assert not page.evaluate(PREVIEW)
        assert page.evaluate(SAID).startswith("153 of 153 frames")
        assert not page.evaluate(FAILED_VIDEO)
        assert not page.evaluate(LEFT_OVER)


@pytest.mark.parametrize("new_nodes", [False, True], ids=["canvas", "nodes2"])
def test_a_run_queued_behind_another_shows_no_error(server, frontend, new_nodes):
    from tests.browser.frontend import FIT, SIZE, opened, report

    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        report(page, load(named("livetalk_quick_start")))
        page.evaluate(COUNT_ENDS)
        page.evaluate(QUEUE)
        page.evaluate(ANOTHER_SEED)
        red = page.wait_for_function(f"() => ({FAILED_VIDEO})() ? 'red' : window.ends === 2 && 'done'").json_value()
        assert red == "done"
        page.set_viewport_size(SIZE)
        page.evaluate(FIT)
        page.wait_for_function(VIDEO, timeout=60_000)
        assert not page.evaluate(FAILED_VIDEO)


@pytest.mark.parametrize("new_nodes", [False, True], ids=["canvas", "nodes2"])
def test_the_blueprints_node_shows_what_runs_in_it_in_two_runs(server, frontend, new_nodes):
    from tests.browser.frontend import FIT, SIZE, opened, picture, report

    kept = SCREENSHOTS / frontend / f"blueprint_{'nodes2' if new_nodes else 'canvas'}"
    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        (blueprint,) = BLUEPRINTS
        report(page, load(blueprint))
        page.evaluate(BLUEPRINT, ["livetalk_portrait.png", "livetalk_speech.wav"])
        page.evaluate(FIT)
        for run in (1, 2):
            page.evaluate(NEXT_OUTER_SEED)
            page.wait_for_function(OUTER_PREVIEW)
            picture(page, kept.with_name(f"{kept.name}_running_{run}.png"))
            assert "s left" in page.evaluate(OUTER_SAID)
            page.wait_for_function(f"() => window.ends === {run}")
            page.set_viewport_size(SIZE)
            page.evaluate(FIT)
            try:
                page.wait_for_function(f"() => `${{({VIDEOS_IN_VIEW})()}}` === '64'", timeout=60_000)
            finally:
                picture(page, kept.with_name(f"{kept.name}_done_{run}.png"))
            assert not page.evaluate(OUTER_PREVIEW)
            assert page.evaluate(OUTER_SAID).startswith("153 of 153 frames")
            assert not page.evaluate(FAILED_VIDEO)
            page.set_viewport_size(SMALL)


@pytest.mark.parametrize("new_nodes", [True], ids=["nodes2"])
def test_a_run_soon_after_another_keeps_its_own_video(server, base, frontend, new_nodes):
    """Seconds after a run its video is told once more; by then the node may have made another one."""
    from tests.browser.frontend import opened, report

    with (
        wave.open(str(ROOT / "demo" / "speech.wav")) as speech,
        wave.open(str(base / "input" / "word.wav"), "wb") as word,
    ):
        word.setparams(speech.getparams())
        word.writeframes(speech.readframes(speech.getframerate() // 2))
    workflow = load(named("livetalk_quick_start"))
    (audio,) = (node for node in workflow["nodes"] if node["type"] == "LoadAudio")
    audio["widgets_values"][0] = "word.wav"
    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        report(page, workflow)
        page.evaluate(COUNT_ENDS)
        page.evaluate(QUEUE)
        page.wait_for_function("() => window.ends === 1")
        page.wait_for_timeout(2500)
        page.evaluate(ANOTHER_SEED)
        page.wait_for_function("() => window.ends === 2")
        page.wait_for_timeout(8000)
        page.wait_for_function(VIDEO, timeout=60_000)
        shown = page.evaluate("() => [...document.querySelectorAll('video')].map(video => video.src)")
        newest = max((base / "output" / "video").glob("LiveTalk_*_.mp4")).name
        assert [newest in source for source in shown] == [True], shown


@pytest.mark.parametrize("new_nodes", [False, True], ids=["canvas", "nodes2"])
def test_a_cancelled_run_plays_what_is_done(server, frontend, new_nodes):
    from tests.browser.frontend import FIT, SIZE, opened, picture, report

    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        report(page, load(named("livetalk_quick_start")))
        page.evaluate(FIT)  # the canvas makes no widget that is out of view
        page.wait_for_function(CROP_VIEW)
        page.evaluate(QUEUE)
        page.wait_for_function(PREVIEW)  # of the first finished chunk: previews of latents are off
        server.interrupt()
        page.wait_for_function("() => window.ended")
        assert page.evaluate("() => window.ended") == "execution_interrupted"
        page.set_viewport_size(SIZE)
        page.evaluate(FIT)
        try:
            page.wait_for_function(PARTIAL, timeout=60_000)
        finally:
            picture(page, SCREENSHOTS / frontend / f"cancelled_{'nodes2' if new_nodes else 'canvas'}.png")
        assert not page.evaluate(FAILED_VIDEO)
        assert "turn on 'resume'" in page.evaluate(SAID)


@pytest.mark.parametrize("new_nodes", [False, True], ids=["canvas", "nodes2"])
def test_a_live_conversation_takes_another_prompt_and_leaves_its_video(server, frontend, new_nodes):
    from tests.browser.frontend import FIT, SIZE, opened, picture, report

    kept = SCREENSHOTS / frontend / f"livetalk_live_{'nodes2' if new_nodes else 'canvas'}"
    with opened(f"http://127.0.0.1:{server.port}") as page:
        page.set_viewport_size(SMALL)
        report(page, load(named("livetalk_live")))
        page.evaluate(FIT)
        page.evaluate(FREE_PORT)
        page.evaluate(QUEUE)
        address = page.wait_for_function(LIVE_PAGE).json_value()
        converse(page.context.browser.new_page(viewport={"width": 420, "height": 800}), address, f"{kept}_page.png")
        page.wait_for_function(PREVIEW)
        picture(page, kept.with_name(f"{kept.name}_talks.png"))
        server.interrupt()
        page.wait_for_function("() => window.ended")
        assert page.evaluate("() => window.ended") == "execution_success"
        page.set_viewport_size(SIZE)
        page.evaluate(FIT)
        try:
            page.wait_for_function(VIDEO, timeout=60_000)
        finally:
            picture(page, kept.with_name(f"{kept.name}_done.png"))
        assert not page.evaluate(PREVIEW)
        assert not page.evaluate(FAILED_VIDEO)
        assert "the conversation has ended" in page.evaluate(LIVE_SAID)


def converse(page, address, kept):
    """Open the live page, change the prompt, have a sound spoken; keep a picture of it while it is."""
    from tests.browser.frontend import PATIENCE_MS

    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    try:
        if page.wait_for_function(SHOWS_OR_ASKS).json_value() == "asks":
            page.click("#start")
        page.click("#prompts")
        page.fill("#prompt", "A person is talking and smiling.")
        page.press("#prompt", "Enter")
        page.wait_for_selector("#change:has-text('Changed')")
        page.set_input_files("#sound", ROOT / "demo" / "speech.wav")
        page.wait_for_function(SPEAKS)
        page.wait_for_timeout(2000)
    finally:
        page.screenshot(path=kept)
    assert page.text_content("#error") == ""
