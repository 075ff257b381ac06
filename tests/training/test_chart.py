"""Charts: round numbers on the axes, the line where its values are."""

import numpy as np
import pytest

from livetalk_core.training.chart import COLORS, HEIGHT, WIDTH, Line, chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 97, [0, 20, 40, 60, 80, 100]),
        (-1, 1.9, [-1, -0.5, 0, 0.5, 1, 1.5, 2]),
    ],
)
def test_ticks_are_round_and_cover_the_span(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_a_rising_line_goes_from_bottom_left_to_top_right():
    picture = np.asarray(
        chart("title", "seconds", [Line("one", [0, 10], [0, 5]), Line("flat", [0, 10], [0, 0], [1, 1])])
    )
    assert picture.shape == (HEIGHT, WIDTH, 3)
    body = picture[70:]  # below title and legend
    rows, columns = np.nonzero((np.abs(body.astype(int) - COLORS[0]) < 12).all(-1))
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    assert columns.min() < WIDTH * 0.15 and columns.max() > WIDTH * 0.9


def test_a_single_point_can_be_shown():
    assert chart("title", "seconds", [Line("one", [3], [2])]).size == (WIDTH, HEIGHT)
