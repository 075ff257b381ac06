"""What `benchmarks.parallel_work` counts, at a small size: no more is sent than must be."""

import re

import pytest

from benchmarks.parallel_work import record, table


@pytest.fixture(scope="module")
def counts():
    return record((2, 4), 64, 128)  # 4 rows and 8 columns of tokens, 9 frames: 288, which 4 divides


def test_every_mesh_sends_the_least(counts):
    assert [(row["ulysses"], row["ring"]) for row in counts["meshes"]] == [(2, 1), (1, 2), (4, 1), (2, 2), (1, 4)]
    for row in counts["meshes"]:
        assert row["sent_bytes_per_block"] == pytest.approx(row["least_bytes_per_block"])
        assert row["sent_bytes_per_block"] == row["all_to_all_bytes_per_block"] + row["ring_bytes_per_block"]


def test_gathering_would_send_less_than_ulysses_at_two_ranks(counts):
    """5,120 wide tokens, of two bytes a number: 1.5 of them against 2, and 3.75 against 3."""
    by_ranks = {row["ranks"]: row for row in counts["meshes"] if row["ring"] == 1}
    assert by_ranks[2]["gathered_bytes_per_block"] == 144 * 5120 * 2 * 1.5 < by_ranks[2]["sent_bytes_per_block"]
    assert by_ranks[4]["gathered_bytes_per_block"] == 72 * 5120 * 2 * 3.75 > by_ranks[4]["sent_bytes_per_block"]


def test_the_table_has_a_row_for_each_mesh(counts):
    rows = [line.split(" | ") for line in table(counts).splitlines() if re.match(r"\| \d+ \| \d+ x \d+ \|", line)]
    assert [row[1] for row in rows] == ["2 x 1", "1 x 2", "4 x 1", "2 x 2", "1 x 4"]
    assert {row[6] for row in rows} == {"1.0000"}
