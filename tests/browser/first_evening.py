"""A newcomer's first evening in a real ComfyUI: `python -m tests.browser.first_evening [TEMPLATE ...]`.

Opens each example from the template browser by mouse, presses Run twice with another seed, and looks at the page all
along: nothing red, a preview that moves, at the end the finished video once. Pictures of what was opened, running and
done lie in `tests/browser/out/first_evening/FRONTEND/NODES/`. Needs Chromium and, in COMFYUI_PATH and COMFYUI_PYTHON, a
ComfyUI; models are the small ones of `tests/nodes/small_files.py`, under the names that the examples ask for. With
`--bare` there are none: the examples are opened only, and must say where all that is missing can be had.

Frontends and kinds of nodes take turns, an example at one of them; `--everywhere` has each at all.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser.examples import FRONTENDS, KINDS, RUN_TWICE, Place, in_turn, needed
from tests.browser.frontend import FIT, ROOT, SETTINGS_OF, SIZE, opened, static_files, use
from tests.browser.graphs import FILES
from tests.nodes.comfy_server import ComfyServer, prepare

OUT = ROOT / "tests" / "browser" / "out" / "first_evening"
UNTOUCHED = "livetalk_quick_start"
"""Run as it opens; the others are made small for their small models: 64 px, one step."""
WATCHED = {"width": 900, "height": 650}
"""Drawn without a graphics card, a large page would fall behind the preview."""
LEAST_PREVIEWS = 8
"""Different pictures of a preview that moves: a third of a second of one chunk."""

# The pictures of the examples that are in view have come.
PICTURES = """() => {
    const pictures = [...document.querySelectorAll('[data-testid^="template-workflow-"] img')];
    const inView = pictures.filter(picture => picture.getBoundingClientRect().top < innerHeight);
    return inView.length > 0 && inView.every(picture => picture.complete && picture.naturalWidth);
}"""
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
# Of an example without its files: its words, its links, and what is red beside the missing models.
PAGE = """() => {
    const boxes = ['error-dialog', 'error-loading-video', 'error-loading-image', 'missing-node-card',
        'missing-media-row'];
    const links = [...document.querySelectorAll('a[href]')].map(link => link.href);
    const red = boxes.filter(name => document.querySelector(`[data-testid="${name}"]`)).join('; ');
    return { text: document.body.textContent, links, red };
}"""
# Notes ends of prompts, videos made, everything red, and for each run what the previews show, as sums of small copies.
WATCH = """() => {
    clearInterval(window.watching);
    const small = new OffscreenCanvas(32, 32).getContext('2d', { willReadFrequently: true });
    const previews = [new Set(), new Set()];
    const look = RED, evening = window.evening = { ends: [], made: new Set(), red: '', previews };
    if (!window.heard) for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(kind, ({ detail }) =>
            window.evening.ends.push(kind === 'execution_success' ? 'done' : `${kind} ${detail.exception_message}`));
    if (!window.heard) app.api.addEventListener('executed', ({ detail }) => {
        if (detail.output?.animated?.[0]) window.evening.made.add(detail.output.images[0].filename);
    });
    window.heard = true;
    window.watching = setInterval(() => {
        evening.red ||= look();
        app.canvas.setDirty(true, true);
        const run = Math.min(evening.made.size, 1);
        const drawn = LiteGraph.vueNodesMode ? [...document.querySelectorAll('[data-node-id] img')]
            : app.graph.nodes.flatMap(node => node.imgs ?? []);
        for (const image of drawn) if (image.src.startsWith('blob:') && image.naturalWidth) try {
            small.drawImage(image, 0, 0, 32, 32);
            const { data } = small.getImageData(0, 0, 32, 32);
            evening.previews[run].add(data.reduce((sum, byte) => (31 * sum + byte) | 0, 7));
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
    const rooms = ['$$comfy_animation_preview', '$$canvas-image-preview'];
    const ours = app.graph.nodes.filter(n => n.constructor.nodeData?.output_node && n.type.startsWith('LiveTalk'));
    const left = ours.some(n => n.widgets?.some(w => rooms.includes(w.name)));
    const previews = Object.values(app.nodePreviewImages).flat().filter(s => s.startsWith('blob:')).length;
    return { videos: videos.map(v => ({ source: decodeURIComponent(v.src), width: v.videoWidth })), left, previews };
}"""
PLAYS = f"() => {{ const {{ videos }} = ({SHOWN})(); return videos.some(v => v.width > 0) }}"


class Evening:
    """One browser page on one server: templates opened and run, pictures kept in `folder`."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder = page, folder
        folder.mkdir(parents=True, exist_ok=True)

    def open_template(self, name: str, pictured: str = "opened") -> None:
        """By mouse: the template browser, the pack, the card; kept as a picture."""
        self.page.set_viewport_size(SIZE)
        self.page.click(".templates-tab-button")
        browser = self.page.locator('[role="dialog"]')  # nodes, too, have a badge of that name
        browser.get_by_text("livetalk", exact=True).first.click()
        card = self.page.locator(f'[data-testid="template-workflow-{name}"]')
        card.wait_for()
        self.page.wait_for_function(PICTURES)
        self.keep("templates")
        card.click()
        card.wait_for(state="detached")
        self.page.wait_for_function("() => app.graph.nodes.length > 3")
        self.page.wait_for_timeout(1500)
        self.fit()
        self.keep(f"{name}_{pictured}")

    def run(self, name: str) -> list[str]:
        """Open an example and run it twice; what was not as it must be."""
        self.open_template(name)
        return faults(self.run_twice(name))

    def look(self, name: str) -> list[str]:
        """Open an example whose files are missing; what was not as it must be."""
        self.open_template(name, "bare")
        self.page.get_by_text("View details").first.click()
        self.page.wait_for_timeout(1500)
        self.keep(f"{name}_missing")
        page, files = self.page.evaluate(PAGE), needed(name)
        return [
            *([f"red: {page['red']}"] if page["red"] else []),
            *(f"{file} is not named" for file in files if file not in page["text"]),
            *(f"no link to {file}" for file in files if FILES[file][0] not in page["links"]),
        ]

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
        self.page.wait_for_function(PLAYS, timeout=60_000)  # it is told once more, and then loads again
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


class Evenings:
    """The evenings on a server's folder made by `prepare`: one frontend, one kind of nodes at a time."""

    def __init__(self, comfyui: Path, base: Path) -> None:
        self.comfyui, self.base = comfyui, base
        self._place: Place | None = None
        self._server, self._page = ExitStack(), ExitStack()

    def at(self, place: Place) -> Evening:
        """That frontend with that kind of nodes."""
        if place != self._place:
            self._page.close()
            if self._place is None or place[0] != self._place[0]:
                self._server.close()
                server = ComfyServer(self.comfyui, self.base, "--front-end-root", str(static_files(place[0])))
                self._server.callback(server.close)
                self._address = f"http://127.0.0.1:{server.port}"
            use(self.base, SETTINGS_OF[place[1]])
            self._evening = Evening(self._page.enter_context(opened(self._address)), OUT / place[0] / place[1])
            self._place = place
        return self._evening

    def close(self) -> None:
        """Close the page, stop the server."""
        self._page.close()
        self._server.close()


def main() -> None:
    """All of them, or those that are named."""
    parser = argparse.ArgumentParser(description="A newcomer's first evening in a real ComfyUI.")
    parser.add_argument("templates", nargs="*", default=RUN_TWICE, metavar="TEMPLATE")
    parser.add_argument("--frontends", nargs="+", default=FRONTENDS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--everywhere", action="store_true", help="each template with all frontends and kinds of nodes")
    parser.add_argument("--bare", action="store_true", help="without any models: open the templates only")
    options = parser.parse_args()
    places = [(frontend, kind) for kind in options.kinds for frontend in options.frontends]
    turns = in_turn(options.templates, places)
    if options.everywhere:
        turns = [(place, name) for place in places for name in options.templates]
    comfyui, failed = Path(os.environ["COMFYUI_PATH"]).resolve(), False
    with tempfile.TemporaryDirectory() as folder:
        prepare(comfyui, Path(folder), models=not options.bare)
        evenings = Evenings(comfyui, Path(folder))
        try:
            for place, name in turns:
                wrong = evenings.at(place).look(name) if options.bare else evenings.at(place).run(name)
                failed |= bool(wrong)
                said = f"{' '.join(place)} {name}: {'; '.join(wrong) or 'as it should be'}"
                print(said, flush=True)  # noqa: T201 - run by hand
        finally:
            evenings.close()
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
