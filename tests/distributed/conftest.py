"""Groups of processes for all tests here."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the processes import the checks by name


@pytest.fixture(scope="session")
def ranks():
    """`ranks(n)` is a group of n processes."""
    from rank_pool import RankPool

    pools = {}
    yield lambda count: pools.get(count) or pools.setdefault(count, RankPool(count))
    for pool in pools.values():
        pool.close()
