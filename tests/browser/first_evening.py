"""A newcomer's first evening in a real ComfyUI: `python -m tests.browser.first_evening [TEMPLATE ...]`.

Opens each example from the template browser by mouse, presses Run twice with another seed, and looks at the page all
along: nothing red, a preview that moves, at the end the finished video once. Pictures of what was opened, running and
done lie in `tests/browser/out/first_evening/FRONTEND/NODES/`. Needs Chromium and, in COMFYUI_PATH and COMFYUI_PYTHON, a
ComfyUI; models are the small ones of `tests/nodes/small_files.py`, under the names that the examples ask for.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.frontend import FIT, NEW_NODES, PINNED, ROOT, SETTINGS, SIZE, opened, static_files
from tests.nodes.comfy_server import ComfyServer, prepare

OUT = ROOT / "tests" / "browser" / "out" / "first_evening"
KINDS = {"canvas": SETTINGS, "nodes2": NEW_NODES}
"""The user's choice of how nodes are drawn, as settings."""
RUN_TWICE = (
    "livetalk_quick_start",
    "livetalk_14b_24gb",
    "livetalk_14b_several_gpus",
    "livetalk_flashhead_pro",
    "livetalk_flashhead_lite",
    "livetalk_any_length_upscaled",
    "livetalk_two_speakers",
    "livetalk_infinitetalk",
    "livetalk_job",
)
"""The others: `livetalk_live` runs until it is stopped, `livetalk_loop_interpolation` needs a newer ComfyUI."""
UNTOUCHED = "livetalk_quick_start"
"""Run as it opens; the others are made small for their small models: 64 px, one step."""
WATCHED = {"width": 900, "height": 650}
"""Drawn without a graphics card, a large page would fall behind the preview."""
LEAST_PREVIEWS = 8
"""Different pictures of a preview that moves: a third of a second of one chunk."""

MAKE_SMALL = """() => {
    const small = { width: 64, height: 64, steps: 1 };
    for (const node of app.graph.nodes.filter(n => n.type.startsWith('LiveTalk')))
        for (const widget of node.widgets ?? []) if (widget.name in small) widget.value = small[widget.name];
}"""
NEXT_SEED = """() => {
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? []) if (widget.name === 'seed') widget.value += 1;
}"""
# What a user would call red, wherever on the page it is.
RED = """() => {
    const boxes = ['error-overlay', 'error-dialog', 'error-loading-video', 'error-loading-image', 'video-preview-error',
        'runtime-error-panel', 'missing-node-card', 'missing-model-download', 'missing-media-row'];
    const seen = boxes.filter(name => document.querySelector(`[data-testid="${name}"]`));
    const words = document.body.innerText.split('\\n').filter(line =>
        /failed to load|Error loading|Unknown file|missing (node|model|media|input)/i.test(line));
    const nodes = app.graph.nodes.filter(n => n.has_errors).map(n => n.type);
    return [...seen, ...words, ...nodes].join('; ');
}"""
# Notes ends of prompts, everything red, and for each run what the previews show, as sums of small copies.
WATCH = """() => {
    clearInterval(window.watching);
    const small = new OffscreenCanvas(32, 32).getContext('2d', { willReadFrequently: true });
    const look = RED, evening = window.evening = { ends: [], red: '', previews: [new Set(), new Set()] };
    if (!window.heard) for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, ({ detail }) =>
            window.evening.ends.push(kind === 'execution_success' ? 'done' : `${kind} ${detail.exception_message}`));
    window.heard = true;
    window.watching = setInterval(async () => {
        evening.red ||= look();
        app.canvas.setDirty(true, true);
        const images = [...document.querySelectorAll('[data-node-id] img[src^="blob:"]')], run = evening.ends.length;
        const sources = LiteGraph.vueNodesMode ? images.filter(image => image.clientWidth > 50).map(image => image.src)
            : Object.values(app.nodePreviewImages).flat().filter(source => source.startsWith('blob:'));
        for (const source of new Set(sources)) try {
            const image = new Image();
            image.src = source;
            await image.decode();
            small.drawImage(image, 0, 0, 32, 32);
            const { data } = small.getImageData(0, 0, 32, 32);
            evening.previews[Math.min(run, 1)].add(data.reduce((sum, byte) => (31 * sum + byte) | 0, 7));
        } catch { /* replaced meanwhile */ }
    }, 40);
}""".replace("RED", RED)
SEEN = """() => {
    const { ends, red, previews } = window.evening;
    return { ends, red, previews_seen: previews.map(seen => seen.size) };
}"""
QUEUE_LEFT = "async () => { const q = await app.api.getQueue(); return q.Running.length + q.Pending.length }"
# The finished videos on the page, and what else was left of the preview.
SHOWN = """() => {
    app.canvas.setDirty(true, true);
    const videos = [...document.querySelectorAll('video')].filter(v => v.getBoundingClientRect().width > 20);
    const left = app.graph.nodes.some(n => n.widgets?.some(w => w.name === '$$comfy_animation_preview'));
    const previews = Object.values(app.nodePreviewImages).flat().filter(s => s.startsWith('blob:')).length;
    return { videos: videos.map(v => ({ source: decodeURIComponent(v.src), width: v.videoWidth })), left, previews };
}"""
PLAYS = f"() => {{ const {{ videos }} = ({SHOWN})(); return videos.some(v => v.width > 0) }}"


class Evening:
    """One browser page on one server: templates opened and run, pictures kept in `folder`."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder = page, folder
        folder.mkdir(parents=True, exist_ok=True)

    def open_template(self, name: str) -> None:
        """By mouse: the template browser, the pack, the card."""
        self.page.set_viewport_size(SIZE)
        self.page.click(".templates-tab-button")
        self.page.get_by_text("livetalk", exact=True).first.click()
        card = self.page.locator(f'[data-testid="template-workflow-{name}"]')
        card.wait_for()
        self.keep("templates")
        card.click()
        card.wait_for(state="detached")
        self.page.wait_for_function("() => app.graph.nodes.length > 3")
        self.page.wait_for_timeout(1500)
        self.fit()
        self.keep(f"{name}_opened")

    def run_twice(self, name: str) -> dict[str, Any]:
        """Run, and once more with the next seed while the first run is at work; what was seen until both had ended."""
        if name != UNTOUCHED:
            self.page.evaluate(MAKE_SMALL)
        self.page.set_viewport_size(WATCHED)
        self.fit()
        self.page.evaluate(WATCH)
        self.press_run()
        self.page.wait_for_function("() => window.evening.previews[0].size > 2 || window.evening.ends.length")
        self.keep(f"{name}_running")
        self.page.evaluate(NEXT_SEED)
        self.press_run()
        self.wait_for_ends()
        self.page.set_viewport_size(SIZE)
        self.fit()
        try:
            self.page.wait_for_function(PLAYS, timeout=60_000)
        finally:
            self.page.wait_for_timeout(2000)
            self.keep(f"{name}_done")
        return self.page.evaluate(SEEN) | self.page.evaluate(SHOWN)

    def press_run(self) -> None:
        """The button."""
        self.page.click('[data-testid="queue-button"]')

    def wait_for_ends(self) -> None:
        """Until both runs are over, with all that a job queues behind them."""
        self.page.wait_for_function("() => window.evening.ends.length > 1")
        while self.page.evaluate(QUEUE_LEFT):
            self.page.wait_for_timeout(500)

    def fit(self) -> None:
        """The whole graph in view."""
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(700)

    def keep(self, name: str) -> None:
        """Keep a picture of the page."""
        self.page.screenshot(path=str(self.folder / f"{name}.png"))


def faults(seen: dict[str, Any]) -> list[str]:
    """What of `run_twice` was not as it must be."""
    videos = seen["videos"]
    return [
        *([f"red: {seen['red']}"] if seen["red"] else []),
        *(str(end) for end in seen["ends"] if end != "done"),
        *([] if min(seen["previews_seen"]) >= LEAST_PREVIEWS else [f"previews of both runs: {seen['previews_seen']}"]),
        *([] if len(videos) == 1 else [f"{len(videos)} videos"]),
        *(f"no finished video: {v}" for v in videos if not v["width"] or ".partial" in v["source"]),
        *(["a preview is left"] if seen["previews"] or seen["left"] else []),
    ]


@contextmanager
def evening(comfyui: Path, base: Path, frontend: str, kind: str) -> Iterator[Evening]:
    """A server of `base`, made by `prepare`, with that frontend and that kind of nodes, and a page on it."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(KINDS[kind]), encoding="utf-8")
    server = ComfyServer(comfyui, base, "--front-end-root", str(static_files(frontend)))
    try:
        with opened(f"http://127.0.0.1:{server.port}") as page:
            yield Evening(page, OUT / frontend / kind)
    finally:
        server.close()


def main() -> None:
    """All of them, or those that are named."""
    parser = argparse.ArgumentParser(description="A newcomer's first evening in a real ComfyUI.")
    parser.add_argument("templates", nargs="*", default=RUN_TWICE, metavar="TEMPLATE")
    parser.add_argument("--frontends", nargs="+", default=[PINNED, "newest"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    comfyui, failed = Path(os.environ["COMFYUI_PATH"]).resolve(), False
    with tempfile.TemporaryDirectory() as folder:
        prepare(comfyui, Path(folder))
        for frontend in options.frontends:
            for kind in options.kinds:
                with evening(comfyui, Path(folder), frontend, kind) as page:
                    for name in options.templates:
                        page.open_template(name)
                        wrong = faults(page.run_twice(name))
                        failed |= bool(wrong)
                        said = f"{frontend} {kind} {name}: {'; '.join(wrong) or 'as it should be'}"
                        print(said, flush=True)  # noqa: T201 - run by hand
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
