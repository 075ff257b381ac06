"""How long each fuzzer runs."""

import sys

import pytest

FUZZERS = 5
"""Sound, pictures, checkpoints, `.pth`, sidecars: all together take the time of `--fuzz-seconds`."""

collect_ignore_glob = [] if sys.platform.startswith("linux") else ["test_*"]


@pytest.fixture(scope="session")
def fuzz_seconds(request) -> float:
    """Seconds for one fuzzer."""
    return request.config.getoption("--fuzz-seconds") / FUZZERS
