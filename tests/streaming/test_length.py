"""What benchmarks/length.py compares: chunks early and late in a stream."""

import pytest

from benchmarks.length import compare, measure


def test_medians_are_of_twenty_around_each():
    rows = [{"seconds": float(chunk), "resident": 100.0} for chunk in range(1, 1031)]
    found = compare(rows, 10, 1000)
    assert found["early"]["seconds"] == 10.5 and found["late"]["seconds"] == 1000.5
    assert found["growth"] == {"seconds": pytest.approx(1000.5 / 10.5 - 1), "resident": 0}


def test_every_chunk_of_a_render_is_measured():
    rows = measure(3, 32)
    assert len(rows) == 3
    assert all(row["processor"] > 0 and row["resident"] > 2**20 for row in rows)
