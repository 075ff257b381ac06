"""No hostile file ends in a traceback, a crash, a hang or much memory; `--fuzz-seconds` looks longer."""

import pytest

from tests.fuzz.harness import FUZZERS, faults


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_nothing_goes_wrong(fuzzer, fuzz_seconds):
    assert not faults(fuzzer, fuzz_seconds)
