"""Damaged pictures and checkpoints: no traceback, no crash, no hang, no more than 1.5 GB.

`FUZZ_SECONDS=3600 pytest tests/fuzz` looks longer than CI does, and `FUZZ_SEED` elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "6"))
SEED = os.environ.get("FUZZ_SEED", "0")
MOST_BYTES = 1.5 * 2**30
LEAST_CASES = 5


@pytest.mark.parametrize("target", ["pictures", "weights", "configs", "pickles", "tokenizers"])
def test_damaged_files_end_in_a_message(target):
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.mutants", target, "--seconds", str(SECONDS), "--seed", SEED],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 120,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-4000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["cases"] >= LEAST_CASES and result["bytes"] < MOST_BYTES
