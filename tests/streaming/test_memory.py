"""Memory does not grow with the length of the speech."""

import pytest

from benchmarks.memory import MIB, measure
from livetalk_core.presets import PRESETS


@pytest.mark.slow
def test_a_minute_takes_no_more_than_ten_seconds():
    """A smaller version of benchmarks/memory.py; 1,500 frames of 32x32 kept as floats would be 18 MB, features more."""
    short, long = (measure(seconds, PRESETS["nano"].audio, side=32) for seconds in (25, 75))
    assert long["peak_bytes"] - short["peak_bytes"] < 25 * MIB
