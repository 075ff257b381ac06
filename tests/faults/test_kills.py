"""Kills at seeded moments of a render; `killed_renders.py` takes any number of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 20


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="processes are forked")
def test_killed_renders_end_as_if_nothing_had_been():
    program = Path(__file__).with_name("killed_renders.py")
    ended = subprocess.run(
        [sys.executable, str(program), "--kills", str(KILLS), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(re.match(r"(\d+) kills in \d+ renders", ended.stdout)[1]) >= KILLS
