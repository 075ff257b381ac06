"""Where a worker stands, by its options: what cannot be is named before it looks for its controller."""

import pytest

from livetalk_core.errors import InputError
from livetalk_core.parallel.worker import place_of


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("LIVETALK_SECRET", "a secret of this fleet")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def place(**options):
    return place_of("127.0.0.1:29700", device="cpu", **options)


def test_numbers_are_the_options_or_torchruns_or_the_controllers(monkeypatch):
    assert (place().rank, place().ranks) == (None, None)
    assert (place(rank=1, ranks=2).rank, place(rank=1, ranks=2).ranks) == (1, 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (place().rank, place().ranks) == (3, 4)
    assert place(rank=0, ranks=2).rank == 0


@pytest.mark.parametrize(
    "numbers", [{"rank": 1}, {"ranks": 2}, {"rank": 2, "ranks": 2}, {"rank": -1, "ranks": 2}, {"rank": 0, "ranks": 0}]
)
def test_numbers_that_cannot_be_are_refused(numbers):
    with pytest.raises(InputError, match=r"--rank .* of --ranks .*; a number from 0 on is needed"):
        place(**numbers)


@pytest.mark.parametrize(("rank", "ranks"), [("x", "2"), ("2", "2"), ("0", ""), ("-1", "2"), ("\u0663", "9")])
def test_so_are_those_of_the_environment(monkeypatch, rank, ranks):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(InputError, match=r"RANK .* of WORLD_SIZE"):
        place()


def test_no_controller_listens_at_port_0():
    with pytest.raises(InputError, match="the port is needed at which the controller listens"):
        place_of("127.0.0.1:0", device="cpu")
