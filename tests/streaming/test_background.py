"""Work on a thread of its own: in order, bounded, and its errors not lost."""

import threading

import pytest

from livetalk_core.streaming.background import Background


@pytest.fixture
def background():
    made = Background(depth=2)
    yield made
    made.close()


def test_calls_run_in_order_on_another_thread(background):
    done = []
    for number in range(20):
        background.submit(lambda number=number: done.append((number, threading.current_thread())))
    background.drain()
    assert [number for number, _ in done] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in done}


def test_no_more_than_depth_are_waiting(background):
    gate, third = threading.Event(), threading.Event()
    background.submit(gate.wait)
    background.submit(lambda: None)
    adder = threading.Thread(target=lambda: (background.submit(lambda: None), third.set()))
    adder.start()
    assert not third.wait(0.1)
    gate.set()
    adder.join()
    assert third.is_set()


def test_an_error_comes_out_once_at_the_next_chance(background):
    background.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        background.drain()
    background.drain()


def test_closing_drops_what_waits():
    background, gate, begun, done = Background(depth=2), threading.Event(), threading.Event(), []
    background.submit(lambda: (begun.set(), gate.wait()))
    background.submit(lambda: done.append(1))
    begun.wait()
    closer = threading.Thread(target=background.close)
    closer.start()
    closer.join(0.1)
    gate.set()
    closer.join()
    assert not done
