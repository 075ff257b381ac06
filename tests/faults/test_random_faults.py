"""A few of the faults that `benchmarks.faults` draws by the hundred."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux")
def test_faults_are_named_and_nothing_is_lost_or_left():
    faults = ["--only", "cut", "drop"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--faults", "2", "--seed", "1", *faults],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("; good") == 2
