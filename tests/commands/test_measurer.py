"""The command `measurer`: what it cannot use is named before it trains."""

import pytest

from livetalk_core.commands.main import main
from livetalk_core.training.evaluation import command


@pytest.mark.parametrize("speech", ["nowhere", "", "/dev/zero", "a\0b"])
def test_speech_that_cannot_be_read(tmp_path, capsys, monkeypatch, speech):
    monkeypatch.setattr(command, "fit_measurer", pytest.fail)
    path = speech or str(tmp_path)
    assert main(["measurer", "--train", str(tmp_path / "run"), "--speech", path]) == 1
    error = capsys.readouterr().err
    assert "error: " in error and "Traceback" not in error and not (tmp_path / "run").exists()
