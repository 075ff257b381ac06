"""Work on a thread of its own: in order, bounded, and its errors not lost."""

import threading

import pytest

from livetalk_core.streaming.side_thread import SideThread


@pytest.fixture
def side_thread():
    made = SideThread(depth=2)
    yield made
    made.close()


def test_calls_run_in_order_on_another_thread(side_thread):
    done = []
    for number in range(20):
        side_thread.submit(lambda number=number: done.append((number, threading.current_thread())))
    side_thread.drain()
    assert [number for number, _ in done] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in done}


def test_no_more_than_depth_are_waiting(side_thread):
    gate, third = threading.Event(), threading.Event()
    side_thread.submit(gate.wait)
    side_thread.submit(lambda: None)
    adder = threading.Thread(target=lambda: (side_thread.submit(lambda: None), third.set()))
    adder.start()
    assert not third.wait(0.1)
    gate.set()
    adder.join()
    assert third.is_set()


def test_an_error_comes_out_once_at_the_next_chance(side_thread):
    side_thread.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        side_thread.drain()
    side_thread.drain()


def test_closing_drops_what_waits():
    side_thread, gate, begun, done = SideThread(depth=2), threading.Event(), threading.Event(), []
    side_thread.submit(lambda: (begun.set(), gate.wait()))
    side_thread.submit(lambda: done.append(1))
    begun.wait()
    closer = threading.Thread(target=side_thread.close)
    closer.start()
    closer.join(0.1)
    gate.set()
    closer.join()
    assert not done
