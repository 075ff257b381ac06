"""The first run on a GPU, here on a CPU: whatever ends it, what it measured is there."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.first_gpu.plan import EXACT, GPU, MEASURED, ROWS
from benchmarks.first_gpu.supervisor import ROOT, UNTOUCHED
from benchmarks.first_gpu.table import table

PATIENCE = 120
WITHOUT_PACKAGES = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *place: None if name in ("av", "ftfy", "pyloudnorm") else find(name, *place)
"""


def command(record, *more):
    return [sys.executable, "-m", "benchmarks.first_gpu", "--device", "cpu", "--json", str(record), *more]


@contextmanager
def running(record, *more):
    """The run, at work; whatever of it is left at the end is ended."""
    process = subprocess.Popen(command(record, *more), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    family = psutil.Process(process.pid)
    try:
        yield process
    finally:
        for member in [*family.children(recursive=True), family] if family.is_running() else []:
            member.kill()
        process.communicate()


def rows_of(record):
    return json.loads(record.read_text())["rows"] if record.exists() else {}


def values_at(record, row, count):
    """Wait until the record holds so many of a row's values."""
    until = time.monotonic() + PATIENCE
    while len(rows_of(record).get(row, {"values": ()})["values"]) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_a_random_moment_it_leaves_what_was_measured(tmp_path, seed):
    record, count = tmp_path / "record.json", random.Random(seed).randint(1, 50)
    with running(record, EXACT) as process:
        values_at(record, EXACT, count)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert workers and not psutil.wait_procs(workers, timeout=10)[1], "a worker outlives its supervisor"
    row = rows_of(record)[EXACT]
    assert len(row["values"]) >= count and row["status"] != MEASURED
    assert f"{len(row['values'])} of {len(row['values'])} within" in table(json.loads(record.read_text()))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".tmp"] == ["record.json"]


def test_a_row_whose_process_dies_keeps_its_values_and_the_next_row_is_measured(tmp_path):
    record = tmp_path / "record.json"
    with running(record, EXACT, "attention", "GPU tests") as process:
        values_at(record, EXACT, 3)
        for worker in psutil.Process(process.pid).children():
            worker.kill()
        said = process.communicate(timeout=PATIENCE)[0]
    rows = rows_of(record)
    assert process.returncode == 0
    assert rows[EXACT]["status"].startswith("the process died (-9)") and len(rows[EXACT]["values"]) >= 3
    assert rows["attention"]["status"] == MEASURED
    assert 0 < rows["attention"]["values"]["sdpa"]["error"] < 0.01
    assert rows["attention"]["values"]["cudnn"] == GPU == rows["GPU tests"]["status"]
    assert "| cudnn | needs a GPU |" in said


def test_packages_that_are_missing_are_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PACKAGES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    record = tmp_path / "record.json"
    with running(record, EXACT):
        values_at(record, EXACT, 5)
    values = rows_of(record)[EXACT]["values"]
    assert "TypeError" in values.pop("audio"), "what needs a package that is missing says so"
    assert values["color: full"]["error"] < values["color: full"]["allowed"]


def test_the_limit_holds(tmp_path):
    record, limit = tmp_path / "record.json", 5
    rows = ("bfloat16", "FP8", "FP8, half of the blocks streamed")
    begun = time.monotonic()
    subprocess.run(command(record, "--limit", str(limit), *rows), cwd=ROOT, check=True, stdout=subprocess.PIPE)
    assert time.monotonic() - begun < limit + 15
    statuses = [rows_of(record)[name]["status"] for name in rows]
    assert statuses[0].startswith("cut off after") and statuses[-1].startswith("not begun: the 5 s were over")


def test_all_rows_fit_into_one_record(tmp_path):
    """A record of nothing is a table, too."""
    record = {"preset": "14b", "device": "cuda", "rows": {r.name: {"status": UNTOUCHED, "values": {}} for r in ROWS}}
    assert "not begun" in table(record)
    gate = {"error": 0.0017, "ms": 0.21, "plain_ms": 1.5}
    record["rows"]["passes"]["values"] = {
        "used": {"rows to FP8": "Triton"},
        "gate": gate,
        "norm": "NameError: no | Any",
    }
    assert "- passes: rows to FP8 by Triton (not begun)" in table(record)
    assert "| gate | 0.17% | 0.21 | 1.50 |\n| norm | NameError: no / Any | | |" in table(record)


def test_a_row_that_is_not_there_is_refused(tmp_path):
    done = subprocess.run(
        command(tmp_path / "r.json", "fast"), cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 2 and "no such row: fast; the rows: machine" in done.stderr
