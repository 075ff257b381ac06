"""Code is told by its files alone."""

import pytest

from livetalk_core.parallel.release import CODE, PACK, digest


@pytest.fixture
def pack(tmp_path):
    (tmp_path / "parallel").mkdir()
    for name in ("__init__.py", "parallel/sequence.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


def test_what_is_no_code_makes_no_difference(pack):
    before = digest(pack)
    (pack / "parallel" / "sequence.cpython-311.pyc").write_bytes(b"compiled")
    (pack / "weights.safetensors").write_bytes(b"numbers")
    (pack / "__init__.py").write_bytes(b"# __init__.py\r\n")
    assert digest(pack) == before
    assert digest(PACK) == CODE


@pytest.mark.parametrize(
    "change",
    [
        lambda pack: (pack / "parallel" / "sequence.py").write_text("# another\n"),
        lambda pack: (pack / "parallel" / "sequence.py").rename(pack / "parallel" / "rows.py"),
        lambda pack: (pack / "more.py").touch(),
    ],
    ids=["changed", "renamed", "added"],
)
def test_every_change_of_code_does(pack, change):
    before = digest(pack)
    change(pack)
    assert digest(pack) != before
