"""The meter: the same however the frames come, and nothing kept of them."""

import pytest
import torch

from livetalk_core.training.evaluation.course import SERIES, Course, Meter
from livetalk_core.training.evaluation.geometry import Measures
from livetalk_core.training.evaluation.measurer import load_measurer

GROUPS = (1, 4, 4, 11, 20, 10)
WINDOW = 25


def measured(subject, groups: tuple[int, ...]) -> Course:
    meter = Meter(load_measurer(), subject.portrait[0], subject.places, WINDOW)
    first = 0
    for count in groups:
        meter.add(subject.drawn(torch.arange(first, first + count)), border=first == 20)
        first += count
    return meter.course()


@pytest.fixture(scope="module")
def course(subjects) -> Course:
    return measured(subjects[0], GROUPS)


def test_groups_do_not_matter(subjects, course):
    other = measured(subjects[0], (20, 30))
    for name in SERIES:
        assert torch.allclose(getattr(course, name), getattr(other, name), atol=1e-3), name
    for a, b in zip(course.measures, other.measures, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert torch.allclose(course.texture.mean, other.texture.mean)


def test_borders_and_changes_are_where_they_belong(subjects, course):
    assert course.border.nonzero().flatten().tolist() == [20]
    frames = subjects[0].drawn(torch.arange(50))
    change = 50 * (frames[:, 20] - frames[:, 19]).abs().mean()
    assert course.change[20] == pytest.approx(float(change), rel=1e-4)
    assert course.change[0] == 0


def test_parts_are_cut_from_the_whole(course):
    part = course.part(WINDOW, 2 * WINDOW)
    assert len(part) == WINDOW
    assert torch.equal(part.identity, course.identity[WINDOW:])
    assert part.texture.count == course.textures[1].count == 5


def test_a_course_is_a_few_numbers_a_frame(course):
    held = sum(series.numel() for series in (*course.measures, *(getattr(course, name) for name in SERIES)))
    assert held == len(course) * (len(Measures._fields) + len(SERIES))
