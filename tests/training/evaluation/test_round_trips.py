"""What a VAE leaves of a picture that goes round."""

from dataclasses import replace

import pytest
import torch

from livetalk_core.checkpoints import nano
from livetalk_core.commands.main import main
from livetalk_core.presets import PRESETS
from livetalk_core.training.evaluation.round_trips import decibels, loss_table, round_trips

STREAM = PRESETS["nano"].stream


@pytest.fixture(scope="module")
def vae():
    return nano.vae("cpu", torch.float32)


def test_each_trip_is_measured_and_revisions_lose_less(vae, subjects):
    picture = subjects[0].portrait
    left = {
        revisions: decibels(round_trips(vae, picture, 4, replace(STREAM, revisions=revisions)), picture)
        for revisions in (0, 2)
    }
    assert left[0].shape == (4,)
    assert (left[0].diff() < 0).all(), "every trip loses something"
    assert left[2][-1] > left[0][-1] + 1


def test_the_table_says_what_was_lost():
    text = loss_table({"face 0": torch.tensor([30.0, 29.0, 27.0]), "photograph 0": torch.tensor([24.0, 24.0, 23.0])})
    rows = {line[:16].strip(): line[16:].split() for line in text.splitlines()}
    assert rows["round trips"] == ["1", "2", "3", "lost"]
    assert rows["faces"] == ["30.00", "29.00", "27.00", "3.00"]
    assert rows["photographs"][-1] == "1.00"


def test_a_number_of_trips_that_is_none_is_refused(capsys):
    assert main(["evaluate", "--round-trips", "0", "--speech", "demo/speech.wav"]) == 1
    assert "0 round trips" in capsys.readouterr().err
