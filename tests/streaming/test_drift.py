"""What benchmarks/drift.py tries: on one drawn person, one disturbance that is drift and one that is not."""

import pytest
import torch

from benchmarks.drift import DISTURBANCES, NEW, SIZE, Trial
from livetalk_core.config import CorrectionConfig
from livetalk_core.training.evaluation.subjects import Cast
from livetalk_core.training.speech import SpeechFolder

CHUNKS = 7


@pytest.fixture(scope="module")
def people():
    time = torch.arange(16_000 * 8) / 16_000
    sound = 9000 * torch.sin(time * 3000) * ((time * 2).long() % 2)
    cast = Cast(SpeechFolder([sound.short().numpy()]), NEW * CHUNKS, SIZE)
    return cast.subject(0), cast.subject(1)


@pytest.mark.parametrize("name", ["face blurred away", "identity morph", "head turned", "lower"])
def test_drift_is_found_and_a_head_held_otherwise_is_not(people, name):
    disturbance = next(one for one in DISTURBANCES if one.name == name)
    trial = Trial(CHUNKS, CorrectionConfig(lookback=2))
    assert trial.find(disturbance, *people).detected == disturbance.drifts
