"""Weights that lie elsewhere, and come to a layer while it computes: one or more layers ahead of their use."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

Arrival = Callable[[], Tensor]
"""Waits for a weight that was asked for."""


class Source(Protocol):
    """Where a layer's weight comes from. Its identity says which layer's."""

    def fetch(self) -> Arrival:
        """Ask for the whole weight; the function that is returned waits for it."""
        ...


class Prefetcher:
    """Hands out weights in the order in which a model asks for them, `ahead` of them on their way.

    Which one comes next is learnt from the last pass.
    """

    def __init__(self, ahead: int = 1) -> None:
        self._ahead = ahead
        self._next: dict[Source, Source] = {}
        self._previous: Source | None = None
        self._coming: deque[tuple[Source, Arrival]] = deque()

    def weight(self, source: Source) -> Tensor:
        """The whole weight of `source`."""
        weight = self._arrived(source)
        if self._previous is not None:
            self._next[self._previous] = source
        self._previous = source
        self._ask_ahead(source)
        return weight

    def _arrived(self, source: Source) -> Tensor:
        while self._coming:
            coming, arrival = self._coming.popleft()
            weight = arrival()
            if coming is source:
                return weight  # those of another are taken off their way, and dropped
        return source.fetch()()

    def _ask_ahead(self, source: Source) -> None:
        last: Source | None = self._coming[-1][0] if self._coming else source
        while len(self._coming) < self._ahead and (last := self._next.get(last)) is not None:
            self._coming.append((last, last.fetch()))


def fetch_weight(layer: nn.Module, source: Source, prefetcher: Prefetcher) -> None:
    """Take a layer's weight away, and have it come from `source` whenever the layer is called."""
    del layer.weight

    def come(layer: nn.Module, _: Any) -> None:
        layer.weight = prefetcher.weight(source)

    def go(layer: nn.Module, *_: Any) -> None:
        del layer.weight

    layer.register_forward_pre_hook(come)
    layer.register_forward_hook(go, always_call=True)
