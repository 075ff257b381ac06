"""How many bytes leave a rank, counted where `collectives` calls torch.distributed."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from . import collectives

ALL_TO_ALL, HOPS, GATHER = "all-to-all", "hops", "gather"
"""Equal parts for all; shares for some, as a ring's; the same for all. Sums over ranks, of a few numbers, are not
counted."""


class CountingCalls:
    """Stands in the place of torch.distributed: notes in `sent` the bytes that leave this rank, and calls on.

    Not for compiled graphs: those keep the calls that were there when they were made.
    """

    def __init__(self, calls: Any, gather: Callable[..., Any]) -> None:
        self._calls, self._gather = calls, gather
        self.sent: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        """All other calls are the original's own."""
        return getattr(self._calls, name)

    def all_to_all_single(
        self,
        received: Tensor,
        sent: Tensor,
        received_counts: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        *,
        group: Any,
        **options: Any,
    ) -> Any:
        """See `torch.distributed.all_to_all_single`."""
        rank, ranks = self._calls.get_rank(group), self._calls.get_world_size(group)
        own = counts[rank] if counts else sent.shape[0] / ranks
        self.sent[HOPS if counts else ALL_TO_ALL] += round((sent.shape[0] - own) * sent[:1].nbytes)
        return self._calls.all_to_all_single(received, sent, received_counts, counts, group=group, **options)

    def all_gather(self, joined: Tensor, sent: Tensor, *, group: Any, **options: Any) -> Any:
        """See `torch.distributed.all_gather_into_tensor`."""
        self.sent[GATHER] += (self._calls.get_world_size(group) - 1) * sent.nbytes
        return self._gather(joined, sent, group=group, **options)


@contextmanager
def counted(calls: Any = None, gather: Callable[..., Any] | None = None) -> Iterator[Counter[str]]:
    """What leaves this rank within the context, by kind; with `calls` and `gather` in place of torch.distributed's."""
    before = collectives.dist, collectives._all_gather
    counting = CountingCalls(before[0] if calls is None else calls, before[1] if gather is None else gather)
    collectives.dist, collectives._all_gather = counting, counting.all_gather  # type: ignore[assignment]
    try:
        yield counting.sent
    finally:
        collectives.dist, collectives._all_gather = before
