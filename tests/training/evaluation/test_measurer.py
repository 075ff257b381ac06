"""The committed measurer: small, and right on held-out people in good pictures and bad."""

import pytest

from livetalk_core.training.evaluation.accuracy import CONDITIONS, accuracy, report
from livetalk_core.training.evaluation.measurer import WEIGHTS, load_measurer
from livetalk_core.training.evaluation.subjects import Cast

SUBJECTS = 3


@pytest.fixture(scope="module")
def measured(cast):
    """In every condition, at the size that the embedded model makes."""
    cast = Cast(cast.speech, cast.frames, (128, 128))
    return {name: accuracy(load_measurer(), cast, SUBJECTS, change) for name, change in CONDITIONS.items()}


def test_the_file_is_small():
    assert WEIGHTS.stat().st_size < 2**20


def test_mouth_opening_is_measured_well(measured):
    assert measured["clean"].correlation["opening"] >= 0.98
    assert measured["blurred by 1 px"].correlation["opening"] >= 0.98
    assert min(each.correlation["opening"] for each in measured.values()) >= 0.95


def test_head_and_eyes_are_measured(measured):
    """Height and pitch alone are hard to tell apart; where the nose is seen, which both move, is measured."""
    clean = measured["clean"]
    for name, least in {"x": 0.95, "roll": 0.95, "yaw": 0.95, "eyes": 0.95, "nose_x": 0.97, "nose_y": 0.9}.items():
        assert clean.correlation[name] >= least, name
    motion = {name: each.head_motion for name, each in measured.items()}
    assert 0.85 < motion["clean"] < 1.15 and 0.7 < min(motion.values()) <= max(motion.values()) < 1.3, motion


def test_measured_poses_align_faces(measured):
    """A tint of ten percent is further from the portrait than any pose, a blur in between."""
    identity = {name: each.identity for name, each in measured.items()}
    assert identity["clean"] < 3
    assert identity["clean"] < identity["blurred by 2 px"]
    assert identity["clean"] < identity["tinted by 10 %"]


def test_report_has_a_row_for_each_measure(measured):
    text = report(measured)
    assert "opening" in text and "nose_y" in text and "blurred by 2 px" in text
