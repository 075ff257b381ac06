"""A few of the faults that `benchmarks.faults` draws by the hundred."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.faults.cases import HOST_FAULTS, draw
from benchmarks.faults.hosts import DROP
from benchmarks.faults.trial import Injector

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


def test_a_fault_that_cannot_be_done_is_none_that_was_tried():
    def inject(case):
        raise OSError("no such rule")

    case = draw(0, 0, 2, {"drop": HOST_FAULTS["drop"]})._replace(stage="load", moment=0)
    with Injector(SimpleNamespace(inject=inject), case, {"load": 0}) as injector:
        until = time.monotonic() + 30
        while injector.failure is None and time.monotonic() < until:
            time.sleep(0.01)
    assert str(injector.failure) == "no such rule"


@pytest.mark.skipif(shutil.which("nft") is None or os.geteuid() != 0, reason="asks the kernel, as root, by nft")
def test_the_kernel_takes_the_rule_that_loses_packets():
    checked = subprocess.run(["nft", "--check", "-f", "-"], input=DROP, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
