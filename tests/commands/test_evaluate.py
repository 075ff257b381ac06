"""The command `evaluate`: options of its two halves do not go together."""

import pytest

from livetalk_core.commands.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audio", "a.wav"], "--audio is for videos: --video FILE or --clips FOLDER"),
        (["--reference", "a.png"], "--reference is for videos"),
        (["--face", "0,0,64,64"], "--face is for videos"),
        (["--syncnet", "a", "b"], "--syncnet is for videos"),
        (["--video", "a.mp4", "--faces", "2"], "--faces is for a model, and no --video or --clips"),
        (["--clips", "a", "--model", "nowhere"], "--model is for a model"),
        (["--video", "", "--quick"], "--quick is for a model"),
        (["--clips", "a", "--round-trips", "3"], "--round-trips is for a model"),
    ],
)
def test_options_of_the_other_half_are_refused(capsys, arguments, message):
    assert main(["evaluate", *arguments]) == 1
    assert message in capsys.readouterr().err
