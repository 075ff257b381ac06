"""The imports of the pack run one way (DESIGN.md), all of them relative, and ComfyUI stays in nodes.

Read from the syntax trees, so that imports inside functions and under TYPE_CHECKING count too.
"""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A part may import itself and any part of lower rank. Longest name wins.
RANKS = {
    "livetalk_core": 0,  # its __init__.py: the version
    "livetalk_core.assets": 0,
    "livetalk_core.errors": 1,
    "livetalk_core.files": 2,
    "livetalk_core.shapes": 2,
    "livetalk_core.config": 3,
    "livetalk_core.models": 4,
    "livetalk_core.presets": 4,
    "livetalk_core.media": 5,
    "livetalk_core.hardware": 5,
    "livetalk_core.checkpoints": 5,
    "livetalk_core.sampling": 5,
    "livetalk_core.parallel": 6,
    "livetalk_core.parallel.fleet": 7,
    "livetalk_core.hardware.placement": 7,
    "livetalk_core.hardware.fit": 8,
    "livetalk_core.streaming": 8,
    "livetalk_core.live": 9,
    "livetalk_core.training": 9,
    "livetalk_core.commands": 10,
    "livetalk_core.__main__": 11,
    "nodes": 10,
    "": 11,  # the root __init__.py
}
LOWEST = {f"livetalk_core{name}" for name in ("", ".errors", ".files", ".shapes", ".config")}
# Parts that see less than their rank allows.
ONLY = {"livetalk_core.media": LOWEST}
# Parts that nobody else may import, whatever the rank, but those named.
PRIVATE = {
    "livetalk_core.training": {"livetalk_core.commands"},
    "livetalk_core.commands": {"livetalk_core.__main__"},
    "nodes": {""},
    "": set(),
}

COMFYUI = {
    "alembic_db", "api_server", "app", "comfy", "comfy_aimdo", "comfy_api", "comfy_api_nodes", "comfy_config",
    "comfy_execution", "comfy_extras", "comfy_kitchen", "cuda_malloc", "execution", "folder_paths", "latent_preview",
    "middleware", "node_helpers", "protocol", "server",
}  # fmt: skip
PACK = {"livetalk_core", "nodes"}


class Import(NamedTuple):
    """One imported module as written in a file: dots, and the absolute name that they lead to."""

    line: int
    level: int
    target: str


def sources() -> list[Path]:
    """Every Python file that ComfyUI loads or the command line runs."""
    files = [file for part in PACK for file in (ROOT / part).rglob("*.py")]
    return sorted(file for file in [ROOT / "__init__.py", *files] if file.is_file())


def module_name(path: Path) -> str:
    """Dotted name from the repository root: `livetalk_core.media.audio`; "" for the root package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    """Whether the repository holds a module or package of this name."""
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def imports(path: Path, text: str) -> Iterator[Import]:
    """All imports of a file; `from .x import y` leads to x.y where that is a module, else to x."""
    package = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            assert up <= len(package), f"{path}:{node.lineno} leaves the pack"
            base = package[: len(package) - up] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{start}.{alias.name}".lstrip(".")
                yield Import(node.lineno, node.level, name if is_module(name) and node.level else start)


def part_of(module: str) -> str | None:
    """The longest entry of RANKS that holds `module`; None for a part that the table does not know."""
    names = module.split(".")
    found = next((name for n in range(len(names), 0, -1) if (name := ".".join(names[:n])) in RANKS), None)
    return None if found == "livetalk_core" and module != found else found


def direction_fault(source: str, target: str) -> str | None:
    """Why module `source` may not import module `target`, or None where it may."""
    here, there = part_of(source), part_of(target)
    if here is None or there is None:
        return f"{source if here is None else target} is no known part: give it a rank"
    if here == there:
        return None
    if here not in PRIVATE.get(there, {here}):
        return f"{here} must not import {there or 'the root package'}"
    if RANKS[there] >= RANKS[here]:
        return f"{here} must not import {there}: imports run from high rank to low"
    if there not in ONLY.get(here, {there}):
        return f"{here} imports only {sorted(ONLY[here])}"
    return None


def fault(source: str, found: Import) -> str | None:
    """Why a file may not hold this import, or None where it may."""
    if found.level:
        return direction_fault(source, found.target)
    top = found.target.split(".")[0]
    if top in PACK:
        return f"import of {found.target} is absolute; only relative imports work under ComfyUI's module name"
    if top not in COMFYUI or source.startswith("nodes.host"):
        return None
    if top == "comfy_api" and source.split(".")[0] in ("nodes", ""):
        return None
    return f"{source or 'the root package'} must not import {top}: nodes import comfy_api, nodes/host alone the rest"


def faults(path: Path, text: str) -> list[str]:
    """Every forbidden import of a file, as `file:line: why`."""
    found = ((item.line, fault(module_name(path), item)) for item in imports(path, text))
    return [f"{path.relative_to(ROOT)}:{line}: {why}" for line, why in found if why]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert not faults(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("livetalk_core/models/x.py", "from ..parallel import mesh"),
        ("livetalk_core/models/x.py", "from .. import parallel"),
        ("livetalk_core/models/x.py", "def f():\n    from ..streaming.session import Session"),
        ("livetalk_core/media/x.py", "from ..models.vae import VAE"),
        ("livetalk_core/media/x.py", "from ..sampling import schedule"),
        ("livetalk_core/parallel/x.py", "from .fleet import Fleet"),
        ("livetalk_core/parallel/fleet.py", "from ..streaming.engine import Engine"),
        ("livetalk_core/parallel/worker.py", "from ..commands.worker import RUNNERS"),
        ("livetalk_core/shapes.py", "from .config import StreamConfig"),
        ("livetalk_core/config.py", "from .presets import PRESETS"),
        ("livetalk_core/models/x.py", "from ..presets import PRESETS"),
        ("livetalk_core/media/x.py", "from ..presets import PRESETS"),
        ("livetalk_core/streaming/x.py", "from ..training import data"),
        ("livetalk_core/live/x.py", "from ..training import data"),
        ("livetalk_core/streaming/x.py", "from ..unheard import of"),
        ("livetalk_core/streaming/x.py", "from ..commands.main import main"),
        ("livetalk_core/streaming/x.py", "from ...nodes.host import device"),
        ("livetalk_core/streaming/x.py", "from livetalk_core.config import StreamConfig"),
        ("livetalk_core/streaming/x.py", "import comfy.utils"),
        ("livetalk_core/streaming/x.py", "from comfy_api.latest import io"),
        ("nodes/x.py", "from ..livetalk_core.training import data"),
        ("nodes/x.py", "from ..livetalk_core.commands.main import main"),
        ("nodes/x.py", "import comfy.model_management"),
        ("nodes/x.py", "from server import PromptServer"),
        ("nodes/x.py", "import folder_paths"),
        ("nodes/x.py", "import livetalk_core"),
        ("__init__.py", "import comfy"),
    ],
)
def test_forbidden_import_is_found(path, line):
    assert len(faults(ROOT / path, line)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("livetalk_core/streaming/x.py", "from .. import __version__"),
        ("livetalk_core/streaming/x.py", "from ..models.vae import VAE\nfrom ..parallel import mesh\nimport torch"),
        ("livetalk_core/streaming/x.py", "from . import plan\nfrom .plan import ChunkPlan"),
        ("livetalk_core/parallel/fleet.py", "from .mesh import Mesh\nfrom ..media import video"),
        ("livetalk_core/streaming/x.py", "from ..parallel.fleet import Fleet"),
        ("livetalk_core/commands/x.py", "from ..streaming.render import Render\nfrom . import info"),
        ("livetalk_core/__main__.py", "from .commands.main import main"),
        ("nodes/x.py", "from comfy_api.latest import io\nfrom . import host\nfrom ..livetalk_core.media import audio"),
        ("nodes/host/models.py", "import comfy.ops\nimport folder_paths\nfrom server import PromptServer"),
        ("__init__.py", "from .nodes import comfy_entrypoint"),
    ],
)
def test_allowed_import_passes(path, line):
    assert faults(ROOT / path, line) == []


def drawn_layers() -> list[set[str]]:
    """The layers as ARCHITECTURE.md draws them, the highest first."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("    commands, nodes -> "))
    return [set(layer.strip().split(", ")) for layer in line.split("->")]


def test_the_layers_drawn_are_those_of_the_table():
    """Each part that is drawn ranks above those to its right, and every part but the entry points is drawn."""
    names = {name: f"livetalk_core.{name}" if name != "nodes" else name for layer in drawn_layers() for name in layer}
    ranks = [{RANKS[names[name]] for name in layer} for layer in drawn_layers()]
    assert all(min(left) > max(right) for left, right in pairwise(ranks))
    assert set(RANKS) - set(names.values()) == {"", "livetalk_core", "livetalk_core.assets", "livetalk_core.__main__"}


OWN = ("livetalk_core", "nodes", "benchmarks", "tests")


@cache
def names_in(path: Path) -> set[str]:
    """What a module binds when it is loaded, under whatever condition."""
    found, waiting = set(), list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def missing_names(path: Path, text: str) -> list[str]:
    """Names that a file takes from one of ours, and that are not there, as `file:line: what`."""
    missing = []
    for node in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)):
        base = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
        place = ROOT.joinpath(*base, *(node.module or "").split("."))
        file = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
        if file is None or file.relative_to(ROOT).parts[0] not in OWN:
            continue
        if not node.level and place == ROOT / "nodes":
            continue  # ComfyUI's own module of that name
        known = names_in(file) | {other.stem for other in file.parent.iterdir() if file.name == "__init__.py"}
        wrong = [alias.name for alias in node.names if alias.name not in known and "__getattr__" not in known]
        missing += [f"{path.relative_to(ROOT)}:{node.lineno}: {file.relative_to(ROOT)} has no {name}" for name in wrong]
    return missing


def test_every_name_that_is_imported_is_there():
    """In tests and benchmarks too, which no type checker reads: so that nothing imports what has moved."""
    files = [file for part in OWN for file in (ROOT / part).rglob("*.py")]
    assert [line for file in files for line in missing_names(file, file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("tests/streaming/x.py", "from livetalk_core.config import PRESETS"),
        ("livetalk_core/streaming/x.py", "from ..config import PRESETS"),
        ("livetalk_core/streaming/x.py", "def f():\n    from .session import Nobody"),
    ],
)
def test_a_name_that_is_not_there_is_found(path, line):
    assert len(missing_names(ROOT / path, line)) == 1


def test_import_that_leaves_the_pack_is_found():
    with pytest.raises(AssertionError, match="leaves the pack"):
        faults(ROOT / "nodes" / "x.py", "from ...outside import thing")
