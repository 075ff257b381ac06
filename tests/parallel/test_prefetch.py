"""Weights on their way: each arrives, whatever the order of use, and in a known order ahead of it."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from livetalk_core.parallel.prefetch import Prefetcher, fetch_weight


class Source:
    """Notes when it is asked, and when its weight is waited for."""

    def __init__(self, name, log):
        self.name, self.log, self.value = name, log, torch.full((1,), float(name))

    def fetch(self):
        self.log.append(("asked", self.name))

        def arrived():
            self.log.append(("arrived", self.name))
            return self.value

        return arrived


def run(order, ahead):
    """The log of using sources in an order, each use noted too."""
    log = []
    prefetcher, sources = Prefetcher(ahead), {name: Source(name, log) for name in set(order)}
    for name in order:
        assert prefetcher.weight(sources[name]) is sources[name].value
        log.append(("used", name))
    return log


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 4))
def test_every_order_gets_its_weights(order, ahead):
    """And no more are on their way at a time than may be."""
    waiting = 0
    for event, _ in run(order, ahead):
        waiting += {"asked": 1, "arrived": -1, "used": 0}[event]
        assert 0 <= waiting <= max(1, ahead)


def test_a_known_order_comes_ahead():
    log = run([0, 1, 2, 3, 4] * 3, 3)
    start = [index for index, event in enumerate(log) if event == ("used", 4)][1] + 1
    assert log[start:] == [
        ("arrived", 0), ("asked", 3), ("used", 0), ("arrived", 1), ("asked", 4), ("used", 1),
        ("arrived", 2), ("asked", 0), ("used", 2), ("arrived", 3), ("asked", 1), ("used", 3),
        ("arrived", 4), ("asked", 2), ("used", 4),
    ]  # fmt: skip


def test_an_unexpected_one_replaces_what_was_coming():
    log = run([0, 1, 2, 0, 2], 1)
    assert log[-5:] == [("arrived", 1), ("asked", 2), ("arrived", 2), ("asked", 0), ("used", 2)]


def test_a_layer_holds_its_weight_only_while_it_is_called():
    layer, weight = nn.Linear(3, 2), torch.randn(2, 3)
    bias = layer.bias
    source = Source(0, [])
    source.value = weight
    fetch_weight(layer, source, Prefetcher())
    assert not hasattr(layer, "weight") and layer.bias is bias
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x @ weight.T + bias)
    assert not hasattr(layer, "weight")
