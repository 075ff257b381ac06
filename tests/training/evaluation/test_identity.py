"""Whose face it is: the same in any pose, another's far away, and blur or tint in between."""

import itertools
from dataclasses import replace

import pytest
import torch

from livetalk_core.training.evaluation.accuracy import blur, tint
from livetalk_core.training.evaluation.geometry import HEAD_HEIGHT, HEAD_WIDTH, Measures, plain, standard, where_seen
from livetalk_core.training.evaluation.identity import Identity
from livetalk_core.training.features import Pose
from livetalk_core.training.looks import draw_looks
from livetalk_core.training.render import place

INDEX = torch.arange(0, 100, 10)


def true(subject, index=INDEX) -> Measures:
    return Measures.true(subject.take.looks, subject.take.pose.map(lambda values: values[index]))


def distance(subject, other, change=lambda frames: frames) -> float:
    """Mean distance of one's frames to another's first frame, both in their true poses."""
    first = INDEX[:1]
    person = Identity.of(other.drawn(first), Measures(*(v.expand(1) for v in true(other, first))))
    measures = Measures(*(v.expand(len(INDEX)) for v in true(subject)))
    return float(person.distance(change(subject.drawn(INDEX)), measures).mean())


def test_places_are_where_the_generator_draws_them():
    looks = replace(
        draw_looks([("places", 0)]), head_rx=torch.tensor([HEAD_WIDTH]), head_ry=torch.tensor([HEAD_HEIGHT])
    )
    numbers = {"x": 0.05, "scale": 1.0, "roll": 0.2, "yaw": 0.3, "pitch": -0.2}
    pose = Pose(**{name: torch.tensor([numbers.get(name, 0.0)]) for name in Pose.__dataclass_fields__})
    x, y = torch.tensor([0.1]), torch.tensor([-0.2])
    seen = where_seen(x, y, Measures.true(looks, pose))
    assert torch.allclose(seen[0], place(looks, pose, x, y), atol=1e-5)


def test_units_and_measures_are_inverse():
    units = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(standard(plain(units)), units, atol=1e-5)


def test_the_same_face_is_near_in_every_pose_and_others_are_far(subjects):
    for subject, other in itertools.pairwise(subjects):
        assert distance(subject, subject) < 3
        assert distance(subject, other) > 5 * distance(subject, subject)


@pytest.mark.parametrize("make", [blur, tint])
def test_damage_grows_the_distance(subjects, make):
    small, large = (1.0, 2.0) if make is blur else (0.05, 0.1)
    for subject in subjects:
        clean, little, much = (distance(subject, subject, change) for change in (make(0.01), make(small), make(large)))
        assert clean < little < much
