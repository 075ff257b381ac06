"""Training configurations: the ones we ship are read, bad ones are refused by name."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from livetalk_core.errors import InputError
from livetalk_core.training.settings import read_settings
from livetalk_core.training.vae import Phase

CONFIGS = sorted((Path(__file__).parents[2] / "livetalk_core/training/configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ours_are_read(path):
    settings = read_settings(path)
    assert settings.schedule.steps > 0
    assert all(isinstance(phase, Phase) for phase in settings.phases)
    assert all(isinstance(size, tuple) for size in settings.data.sizes)


def test_14b_learns_from_real_people_from_where_the_literature_starts():
    for stage in ("adapt", "distill"):
        settings = read_settings(CONFIGS[0].with_name(f"14b-{stage}.toml"))
        assert settings.data.clips is not None, "drawn faces would overwrite real ones"
        assert settings.patch is not None and "infiniteTalk" in settings.patch.name
    assert settings.schedule.rate_of("critic", 50) == pytest.approx(4e-7)
    assert settings.schedule.rate_of("student", 50) == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedule]\nsteps = 5\nspeed = 2", "unknown speed; known are steps"),
        ("[schedule]\nsteps = 0", "at least 1"),
        ("[schedule]\nsteps = 'many'", r"^[^:]*bad.toml: schedule: steps is 'many'; int is needed$"),
        ("model = 'nano'", "lacks schedule"),
        ("steps = [", "cannot be read"),
        ("dtype = 'int4'\n[schedule]\nsteps = 5", "dtype 'int4'; there are float32"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(path)


def test_a_plot_shows_a_record(tmp_path):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    from livetalk_core.training.plot import plot_record

    (tmp_path / "record.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "rate": 0.1}\n')
    with Image.open(plot_record(tmp_path)) as picture:
        assert picture.size == (810, 414), "two charts below each other: loss and rate"


@pytest.mark.parametrize("name", ["nowhere.toml", "", "/dev/zero", "a\0b"])
def test_what_is_no_file_is_named(name):
    with pytest.raises(InputError, match="a TOML file is needed"):
        read_settings(Path(name))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[a", b"x = " + b"[" * 100_000, b'init = "a\0b"'])
def test_what_is_no_toml_is_named(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="a TOML file of settings is needed"):
        read_settings(path)
