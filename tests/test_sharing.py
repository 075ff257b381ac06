"""What the ComfyUI registry and its Manager ask of a pack."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
OPERATING_SYSTEMS = {"OS Independent", "Microsoft :: Windows", "POSIX :: Linux", "MacOS"}
ENVIRONMENTS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}
"""Values that the registry knows; one unknown value makes it drop all of that kind."""


@pytest.fixture(scope="module")
def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_accepts_the_fields(pyproject):
    project, comfy = pyproject["project"], pyproject["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert set(project["urls"]) >= {"Repository", "Documentation", "Bug Tracker"}
    assert all(url.startswith("https://") for url in project["urls"].values())
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"].startswith(">=")
    assert "web" not in comfy, "WEB_DIRECTORY serves the help pages; both would serve them twice"


def test_classifiers_are_among_those_that_the_registry_knows(pyproject):
    known = {"Operating System": OPERATING_SYSTEMS, "Environment": ENVIRONMENTS}
    for classifier in pyproject["project"]["classifiers"]:
        kind, value = classifier.split(" :: ", 1)
        assert value in known[kind], classifier


def test_icon_and_banner_have_the_sizes_asked_for(pyproject):
    comfy = pyproject["tool"]["comfy"]
    icon, banner = (ROOT / comfy[name].split("/main/")[1] for name in ("Icon", "Banner"))
    with Image.open(icon) as image:
        assert image.width == image.height <= 400
    with Image.open(banner) as image:
        assert image.width * 9 == image.height * 21


def test_the_archive_leaves_out_what_users_do_not_need():
    ignored = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert {"/tests/", "/benchmarks/", "/.ci/", "/.github/"} <= set(ignored)
    assert not {"/web/", "/workflows/", "/subgraphs/", "/locales/", "/docs/"} & set(ignored)


def test_workflows_lie_in_one_folder_that_the_template_browser_reads():
    assert [name for name in ("example_workflows", "example", "examples", "workflow") if (ROOT / name).exists()] == []
    assert all(path.suffix in (".json", ".jpg") for path in (ROOT / "workflows").iterdir())


def test_blueprints_hold_one_subgraph_each():
    for path in (ROOT / "subgraphs").glob("*.json"):
        definitions = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
        assert len(definitions) == 1
        assert definitions[0]["description"] and definitions[0]["category"]
