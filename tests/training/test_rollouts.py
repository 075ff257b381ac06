"""The comparison of students by their rollouts: its statistics, and that what is done is not done again."""

import json

import pytest

from benchmarks.rollouts import COUNTS, Scores, difference, student, table


def test_a_paired_difference_has_its_confidence_interval():
    mean, reach = difference([1.0, 2.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0])
    assert mean == 1.5
    assert reach == pytest.approx(3.182 * (1 / 3) ** 0.5 / 2, abs=1e-6)  # t of 3 degrees of freedom
    assert difference([3.0, 4.0], [1.0, 2.0]) == (2.0, 0.0)


def test_the_table_compares_with_one_chunk_from_two_seeds_on():
    scores = {count: [Scores(count + seed, 1.0, 0.5, 0.5) for seed in range(2)] for count in COUNTS}
    lines = table(Scores(0, 0, 0, 0), scores).splitlines()
    assert len(lines) == 8 and lines[-1].startswith("| K = 5 less K = 1 | +4.000 ± 0.000 | +0.000")
    assert len(table(Scores(0, 0, 0, 0), {count: each[:1] for count, each in scores.items()}).splitlines()) == 6


def test_a_student_that_was_measured_is_not_made_again(tmp_path):
    kept = Scores(1.0, 2.0, 3.0, 4.0)
    (tmp_path / "k3-seed5-rounds60.json").write_text(json.dumps(kept._asdict()))
    scale = type("Scale", (), {"folder": tmp_path})()
    assert student(scale, tmp_path, 3, 5, 60) == kept
