"""The files around the code agree with one another and with ComfyUI's rules."""

import re
from pathlib import Path

import pytest

from livetalk_core import __version__

ROOT = Path(__file__).resolve().parents[1]
REFUSED_BY_MANAGER = {"torch", "torchvision", "torchaudio", "torchsde", "xformers"}


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_both_lists_of_dependencies_are_one(project):
    assert project["dependencies"] == requirements()


@pytest.mark.parametrize(("extra", "file"), [("train", "training"), ("dev", "dev")])
def test_extras_are_the_lists_of_requirements(project, extra, file):
    lines = (ROOT / f"requirements-{file}.txt").read_text(encoding="utf-8").replace('"', "'").splitlines()
    assert [line for line in project["optional-dependencies"][extra] if not line.startswith("livetalk[")] == [
        line for line in lines if line and line[0] not in "#-"
    ]


def test_version_is_that_of_the_core(project):
    assert project["version"] == __version__


def test_users_keep_their_torch_and_their_versions():
    names = {re.split(r"[<>=~!\[;]", line)[0] for line in requirements()}
    assert not names & REFUSED_BY_MANAGER
    assert not [line for line in requirements() if "==" in line or "<" in line or "~=" in line]


def test_no_folder_of_tests_is_a_package():
    """A tests/__init__.py would make pytest import the root one, which is ComfyUI's entry point."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "figures").rglob("*.json")), ids=lambda path: path.stem)
def test_figures_name_no_place_of_the_machine_that_made_them(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|media|mnt|opt|root|tmp|Users|var|work)/[^\s\"']*", text)
