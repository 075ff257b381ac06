"""Makes `casts` known to the tests by name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small_cast():
    """See `casts.small_cast`."""
    import casts

    return casts.small_cast()
