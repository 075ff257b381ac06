"""What all tests share: the golden files, skips that say why, and repeatable property tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Derandomised: a property test fails for everybody or for nobody. No deadline: shared machines stall.
settings.register_profile("livetalk", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("livetalk")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the fuzzers run, all together."""
    parser.addoption("--fuzz-seconds", type=float, default=120, help="of all fuzzers together (default: 120)")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference model's numbers."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI checkout that `COMFYUI_PATH` names; ask for it under the marker `comfyui`."""
    path = Path(os.environ["COMFYUI_PATH"]).resolve()
    assert (path / "main.py").is_file(), f"COMFYUI_PATH is {path}, which holds no main.py; needs a ComfyUI checkout"
    return path


@pytest.fixture(scope="module")
def base(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder for a ComfyUI with this pack."""
    from tests.nodes.comfy_server import prepare

    folder = tmp_path_factory.mktemp("comfyui")
    prepare(comfyui, folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    _skip(items, "comfyui", "COMFYUI_PATH names no ComfyUI checkout", lambda: bool(os.environ.get("COMFYUI_PATH")))
    paths = ("REFERENCE_PATH", "FLASHHEAD_PATH")
    _skip(items, "reference", f"none of {paths} names a checkout", lambda: any(map(os.environ.get, paths)))
    _skip(items, "gpu", "no CUDA device", _has_gpu)


def _skip(items, marker, reason, available) -> None:
    marked = [item for item in items if item.get_closest_marker(marker)]
    if marked and not available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch  # here, so that tests of plain Python start at once

    return torch.cuda.is_available()
