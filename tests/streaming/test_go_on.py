"""A talk in two parts, the second from the last frames of the first: nobody sees or hears where they meet."""

import pytest

from benchmarks.go_on import measure


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Of 6 s; `python -m benchmarks.go_on` takes 20."""
    return measure(6, 64, 0, tmp_path_factory.mktemp("parts"))


def test_the_border_is_no_livelier_than_other_borders(numbers):
    border = numbers["gone on"]
    assert border["between"] <= border["at_chunks"]


def test_a_second_part_begun_anew_would_be_seen(numbers):
    """What the other test compares with is not lively by itself."""
    assert numbers["begun anew"]["between"] > 2 * numbers["gone on"]["at_chunks"]


def test_the_sound_goes_on_to_the_sample(numbers):
    sound = numbers["sound"]
    assert sound["at the border"] < 1.5 * sound["elsewhere"]
    assert sound["largest at the border"] <= sound["largest elsewhere"]
    assert sound["elsewhere"] < 0.03 * sound["of the speech"]
