"""Who has the seat."""

import pytest

from livetalk_core.errors import InputError
from livetalk_core.live.server.seats import Seats


def test_callers_wait_in_line_and_move_up():
    seats = Seats(waiting=2)
    assert [seats.ask(caller) for caller in ("a", "b", "c", "a", "b")] == [0, 1, 2, 0, 1]
    with pytest.raises(InputError, match="busy: 3 callers"):
        seats.ask("d")
    seats.leave("a")
    assert (seats.holder, seats.ask("b"), seats.ask("c"), seats.ask("d")) == ("b", 0, 1, 2)
    seats.leave("c")
    assert seats.ask("d") == 1 and not seats.waits("c")


def test_without_a_line_the_second_is_refused():
    seats = Seats(waiting=0)
    seats.ask("a")
    with pytest.raises(InputError, match="come again later"):
        seats.ask("b")
