"""How long each fuzzer runs."""

import sys

import pytest

from tests.fuzz.harness import FUZZERS

collect_ignore_glob = [] if sys.platform.startswith("linux") else ["test_*"]


@pytest.fixture(scope="session")
def fuzz_seconds(request) -> float:
    """Seconds for one fuzzer."""
    return request.config.getoption("--fuzz-seconds") / len(FUZZERS)
