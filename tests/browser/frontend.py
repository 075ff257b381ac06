"""ComfyUI's frontend in Chromium: load a workflow, see what is wrong with it, save it, look at it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.browser.examples import KINDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "comfyui_frontend_package"
OBJECT_INFO = Path(__file__).with_name("object_info.json")
OTHERS = ROOT / ".venv" / "frontends"
GRAPH = {"x": 50.0, "y": 75.0, "width": 1750.0, "height": 975.0}
"""The part of the page that shows the graph, without the bars around it."""
PATIENCE_MS = 240_000
"""A loaded machine takes its time; a test that fails says what it waited for."""
SIZE = {"width": 1800, "height": 1100}
# No tours, no outside calls, and the old canvas nodes unless a test asks for the new ones.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.WarnBeforeLoadingNonPersistedFile": False,
    "Comfy.InstalledVersion": "1.58.1",
    "Comfy.Release.Status": "what's new seen",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.VueNodes.AutoScaleLayout": False,
    "Comfy.Minimap.Visible": False,
}
NEW_NODES = SETTINGS | {"Comfy.VueNodes.Enabled": True}
SETTINGS_OF = dict(zip(KINDS, (SETTINGS, NEW_NODES), strict=True))

# Everything that a user would see as broken, and the prompt that the frontend makes.
REPORT = """async (workflow) => {
    await app.loadGraphData(workflow);
    await new Promise(resolve => setTimeout(resolve, 500));
    const inside = graph => (graph.nodes ?? graph._nodes).flatMap(n => [n, ...(n.subgraph ? inside(n.subgraph) : [])]);
    const nodes = inside(app.graph);
    const registered = n => n.subgraph || n.isVirtualNode || n.type in LiteGraph.registered_node_types;
    return {
        nodes: nodes.map(n => n.type),
        missing: nodes.filter(n => !registered(n)).map(n => n.type),
        red: nodes.filter(n => n.has_errors).map(n => n.type),
        widgets: nodes.flatMap(n => (n.widgets ?? []).filter(w => w.value === undefined && w.serialize !== false
            && w.options?.serialize !== false).map(w => `${n.type}.${w.name}`)),
        prompt: (await app.graphToPrompt()).output,
    };
}"""


FIT = """() => {
    app.canvas.deselectAll?.();
    const nodes = app.graph.nodes ?? app.graph._nodes, title = 40, margin = 90;
    const left = Math.min(...nodes.map(n => n.pos[0])), top = Math.min(...nodes.map(n => n.pos[1])) - title;
    const right = Math.max(...nodes.map(n => n.pos[0] + n.size[0]));
    const bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1]));
    const ds = app.canvas.ds, [width, height] = [innerWidth - 2 * margin, innerHeight - 2.2 * margin];
    ds.scale = Math.min(width / (right - left), height / (bottom - top), 1.2);
    ds.offset = [margin / ds.scale - left, margin / ds.scale - top];
    app.canvas.setDirty(true, true);
}"""


def use(base: Path, settings: dict[str, Any]) -> None:
    """Make them the settings of the user of a ComfyUI's base folder, for pages that are opened from now on."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")


def static_files(frontend: str) -> Path | None:
    """The files of a frontend version, `newest` or a number; None where it is not installed."""
    folder = OTHERS / frontend / PACKAGE
    try:
        newest = version("comfyui-frontend-package")
    except PackageNotFoundError:
        newest = None
    if newest and frontend in ("newest", newest):
        folder = Path(str(files(PACKAGE)))
    return folder / "static" if (folder / "static").is_dir() else None


def chromium() -> str | None:
    """The browser that `CHROMIUM` names, or the machine's own."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened(address: str) -> Iterator[Page]:
    """A page with the frontend, ready to load workflows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address, wait_until="commit")
        page.wait_for_function("() => window.app?.graph && Object.keys(LiteGraph.registered_node_types).length > 5")
        page.wait_for_selector("#splash-loader", state="detached")
        yield page
        browser.close()


def report(page: Page, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load a workflow: its nodes, what is missing or red, and its prompt."""
    return page.evaluate(REPORT, workflow)


def picture(page: Page, path: Path) -> None:
    """Save what the page shows, the whole graph in view."""
    page.evaluate(FIT)
    page.wait_for_timeout(1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path), clip=GRAPH)
