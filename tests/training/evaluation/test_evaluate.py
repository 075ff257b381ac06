"""Streams measured as the session makes them, in one process or several, and the report on them."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from livetalk_core.commands.main import main
from livetalk_core.errors import InputError
from livetalk_core.streaming.session import Frames
from livetalk_core.training.evaluation.command import Settings
from livetalk_core.training.evaluation.course import SERIES, Meter
from livetalk_core.training.evaluation.entrants import Entrant
from livetalk_core.training.evaluation.evaluate import Protocol, evaluate
from livetalk_core.training.evaluation.measurer import load_measurer
from livetalk_core.training.evaluation.report import save_plots, save_sheet, table
from livetalk_core.training.evaluation.rollout import perform, run_all

NANO = Entrant.parse("nano,steps=1")
CPU = torch.device("cpu")
SPEECH = Path(__file__).resolve().parents[3] / "demo" / "speech.wav"


@pytest.fixture(scope="module")
def protocol(cast) -> Protocol:
    """Two people for two seconds."""
    return Protocol(replace(cast, frames=50, size=(64, 64)), faces=2, seeds=1)


@pytest.fixture(scope="module")
def rows(protocol):
    return evaluate([NANO], protocol)


def test_a_stream_is_measured_as_the_session_makes_it(protocol):
    subject, performer = protocol.cast.subject(0), NANO.open(CPU, torch.float32)
    outcome = perform(performer, subject, 3, load_measurer())
    session = performer.session(subject)
    frames = [event.frames for event in session.run(session.start(3)) if isinstance(event, Frames)]
    meter = Meter(load_measurer(), subject.portrait[0], subject.places, outcome.course.window)
    meter.add(torch.cat(frames, dim=1), border=False)
    for name in set(SERIES) - {"border"}:
        assert torch.allclose(getattr(outcome.course, name), getattr(meter.course(), name), atol=1e-3), name
    assert outcome.course.border.nonzero().flatten().tolist() == [33]
    assert outcome.pictures.shape == (8, 64, 64, 3)


@pytest.mark.slow
def test_processes_give_what_one_process_gives(protocol, rows):
    outcomes = list(run_all(protocol.jobs(NANO), workers=2))
    for outcome, alone in zip(outcomes, rows[0].outcomes, strict=True):
        assert torch.allclose(outcome.course.identity, alone.course.identity, atol=1e-2)
        assert torch.equal(outcome.course.border, alone.course.border)


def test_rows_and_bounds(rows):
    nano, drawn, mismatched = rows
    assert [row.name for row in rows] == ["nano,steps=1", "drawn", "mismatched"]
    assert drawn.spread("head_motion")[0] > 0
    assert nano.spread("picture")[0] > 0
    assert mismatched.spread("identity")[0] > 5
    assert len(nano.windows[0]) == 2 and len(nano.drift) == 2


def test_report(rows, tmp_path):
    text = table(rows)
    assert "lip_sync" in text and "drift" in text
    save_plots(tmp_path, rows)
    save_sheet(tmp_path / "sheet.png", rows)
    assert Image.open(tmp_path / "over_time.png").height > Image.open(tmp_path / "mouth.png").height
    assert Image.open(tmp_path / "sheet.png").size == (8 * 64, 4 * 64)


def test_what_cannot_be_evaluated_is_refused(cast):
    with pytest.raises(InputError, match="at least 2 s"):
        Settings((NANO,), seconds=1)
    with pytest.raises(InputError, match="0 faces"):
        Settings((NANO,), faces=0)
    for seconds in (float("nan"), float("inf"), 1e12):
        with pytest.raises(InputError, match="at most 86400"):
            Settings((NANO,), seconds=seconds)


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--json", "none/a.json", "is no folder"),
        ("--sheet", "none/a.png", "is no folder"),
        ("--sheet", "a.jp", "png"),
        ("--plots", "file", "is a file"),
        ("--plots", "file/charts", "is no folder"),
    ],
)
def test_files_that_cannot_be_written_are_named_before_anything_is_made(tmp_path, capsys, option, name, message):
    (tmp_path / "file").touch()
    options = ["--quick", "--seconds", "1000", "--speech", str(SPEECH), option, str(tmp_path / name)]
    assert main(["evaluate", *options]) == 1
    assert message in capsys.readouterr().err


def test_plots_need_a_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--quick", "--seconds", "1000", "--speech", str(SPEECH), "--plots", str(tmp_path)]
    assert main(["evaluate", *options]) == 1
    assert "matplotlib is missing; needed: `pip install" in capsys.readouterr().err


def test_command(tmp_path, capsys):
    options = ["--quick", "--seconds", "2", "--faces", "1", "--model", "nano,steps=1", "--size", "64x64"]
    files = ["--speech", str(SPEECH), "--json", str(tmp_path / "figures.json")]
    assert main(["evaluate", *options, *files, "--device", "cpu"]) == 0
    assert "lip_sync" in capsys.readouterr().out
    record = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["nano,steps=1", "drawn", "mismatched"]
    assert record["speech"] == SPEECH.name and len(record["rows"][0]["streams"]) == 1
    assert main(["evaluate", "--speech", str(tmp_path / "none.wav")]) == 1


def test_weights_of_another_kind_are_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"PNG" * 100)
    with pytest.raises(InputError, match=r"cannot be read .* a safetensors file of the part's own keys is needed"):
        Entrant("nano", vae=tmp_path / "a.safetensors").codec()
