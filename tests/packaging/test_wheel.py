"""`pip install livetalk`, as a user without the repository meets it: built, installed, run from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
MOST_BYTES = 70 * 2**20
pytestmark = pytest.mark.slow
LEFT_OUT = shutil.ignore_patterns(".*", "build", "tests", "benchmarks", "out", "__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(folder / "source")], check=True)
    return next(folder.glob("livetalk-*.whl"))


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; the packages that it needs are those of the one that runs the tests."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home, with_pip=False)
    subprocess.run([*PIP, "--python", str(home), "install", "--no-deps", str(wheel)], check=True)
    packages = next(home.rglob("site-packages"))
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    return home


def program(home: Path, name: str) -> str:
    """The path of a command of the virtual environment."""
    return str(next(path for path in home.rglob("*") if path.stem == name and path.parent.name in ("bin", "Scripts")))


def test_the_wheel_holds_what_it_needs_and_is_small(wheel):
    assert wheel.stat().st_size < MOST_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (*(ROOT / "livetalk_core").rglob("*"), *(ROOT / "workflows").iterdir(), *(ROOT / "locales").rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            name = path.relative_to(ROOT).as_posix()
            assert name in names or any(full.endswith(f"share/livetalk/{name}") for full in names), name
    tops = {name.split("/")[0] for name in names if name.endswith(".py")}
    assert tops == {"livetalk_core"}, "no other package of a general name: nodes, tests ..."


def test_it_renders_from_an_empty_folder(home, tmp_path):
    """With the demo's portrait, in this process and in workers."""
    share = next(home.rglob("share/livetalk"))
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(8000) * 0.1) * 9000).astype("<i2").tobytes())
    words = ["generate", "--image", str(share / "demo" / "portrait.png"), "--audio", "speech.wav", "--size", "64x64"]
    for options in (["--steps", "1"], ["--steps", "1", "--devices", "cpu x2", "--overwrite"]):
        subprocess.run([program(home, "livetalk"), *words, *options], cwd=tmp_path, check=True)
        assert (tmp_path / "talk.mp4").stat().st_size > 1000
        (tmp_path / "talk.mp4").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


def test_the_module_runs_and_says_where_it_is_from(home, tmp_path):
    code = "import livetalk_core, json; print(json.dumps(livetalk_core.__file__))"
    found = subprocess.run([program(home, "python"), "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert Path(json.loads(found.stdout)).is_relative_to(home)
    subprocess.run([program(home, "python"), "-m", "livetalk_core", "--version"], cwd=tmp_path, check=True)


def test_without_torch_one_line_says_how_to_get_it(home, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = ["generate", "--image", "a.png", "--audio", "a.wav"]
    ended = subprocess.run(
        [program(home, "livetalk"), *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    line = ended.stderr.split("\r")[-1]
    assert line.startswith("error: torch is missing; needed: `pip install torch`") and line.count("\n") == 1
