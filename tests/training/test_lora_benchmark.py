"""How near LoRAs come to a person: the share of the way that there is, and clips of one person."""

import numpy as np
import pytest
import torch

from benchmarks.lora import Distances, Measured, Share, record, table
from livetalk_core.training.evaluation.entrants import DRAWN, Entrant
from livetalk_core.training.evaluation.evaluate import Row
from livetalk_core.training.evaluation.metrics import Scores
from livetalk_core.training.evaluation.subjects import Cast
from livetalk_core.training.speech import SpeechFolder


def measured(entrant: Entrant, *heads: float) -> Measured:
    """Clips at these distances, all other scores the same."""
    scores = [Scores(*[0.5] * len(Scores._fields)) for _ in heads]
    return Measured(entrant, Row(str(entrant), scores, [], [], []), [Distances(head, *[1.0] * 3) for head in heads])


def test_the_persons_own_clips_are_the_end_of_the_way():
    assert Share.of([8, 10], [6, 8], [6, 8]) == (1, 0)
    assert Share.of([8, 10], [8, 10], [6, 8]) == (0, 0)
    share = Share.of([8, 8], [7, 6], [6, 4])
    assert share == (pytest.approx(0.5), 0)
    assert str(Share.of([8, 8], [7, 7.5], [6, 6])) == "38% ± 12"


def test_where_the_persons_own_clips_are_no_nearer_there_is_no_share():
    assert Share.of([8, 6], [7, 5], [7, 6]) is None


def test_the_table_says_how_much_nearer_and_how_much_of_the_way():
    rows = [
        measured(Entrant(), 8, 8),
        measured(Entrant.parse("nano,lora=folder/a.safetensors,strength=1.2"), 7, 7.5),
        measured(Entrant(DRAWN), 6, 6),
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "| | without | with a.safetensors at 1.2 | nearer by | of the way | drawn |"
    assert "| person_head, distance | 8.000 | 7.250 | 9% | 38% ± 12 | 6.000 |" in lines
    assert "| person_features, distance | 1.000 | 1.000 | 0% |  | 1.000 |" in lines
    assert len({line.count("|") for line in lines}) == 1
    kept = record(rows[1], rows[0], rows[2])
    assert kept["clips"]["person_head"] == [7, 7.5]
    assert kept["of_the_way"]["person_head"] == (0.375, 0.125)
    assert record(rows[0], rows[0], rows[2])["of_the_way"] == {}


def test_clips_of_one_person_show_one_face_with_other_words_and_movements():
    sound = np.random.default_rng(0).normal(scale=4000, size=160_000).astype(np.int16)
    first, second, other = (
        Cast(SpeechFolder([sound]), 60, (64, 64), person=person).subject(clip).take
        for person, clip in ((1, 0), (1, 1), (2, 0))
    )
    assert all(torch.equal(*both) for both in zip(vars(first.looks).values(), vars(second.looks).values(), strict=True))
    assert not torch.equal(first.pose.yaw, second.pose.yaw) and not torch.equal(first.sound, second.sound)
    assert not torch.equal(first.looks.skin, other.looks.skin)
