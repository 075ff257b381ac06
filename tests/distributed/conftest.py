"""Groups of processes for all tests here, one group at work at a time on this machine."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))  # the processes import the checks by name

LOCK = Path(tempfile.gettempdir()) / f"livetalk-ranks-{os.getuid()}.lock"
"""One for all processes of pytest-xdist, and for all runs of this user."""


@pytest.fixture(autouse=True)
def alone():
    """Groups of five and eight processes at once take turns on the cores, and each waits for ranks that do not run.

    The kernel frees the lock with the process that holds it; nobody waits for another lock while holding it.
    """
    with FileLock(LOCK):
        yield


@pytest.fixture(scope="session")
def ranks():
    """`ranks(n)` is a group of n processes."""
    from rank_pool import RankPool

    pools = {}
    yield lambda count: pools.get(count) or pools.setdefault(count, RankPool(count))
    for pool in pools.values():
        pool.close()
