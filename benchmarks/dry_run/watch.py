"""What is seen of a dry run: bytes on the device, what the host waits for, what is copied, what is computed."""

import math
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select", "aten.is_nonzero")
"""Operations for whose result, on a GPU, the host waits."""
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_mm")
UNDIVIDED = ("aten.rms_norm", "aten.layer_norm")
"""What a GPU computes in one kernel, though it could be taken apart."""
COPIES = ("aten._to_copy", "aten.copy_")
LARGE = 2**20
"""Bytes from which on a buffer is looked at that a view keeps alive."""


class Event(NamedTuple):
    """Something that the device's allocator is told of: `alloc`, `free`, or `empty` (its cache)."""

    kind: str
    key: int
    size: int


class Watch(TorchDispatchMode):
    """Sees every operation inside it. `phase` says during which part of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "begin"
        self.live, self.peak = 0, 0
        self.events: list[Event] = []
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.products: Counter[tuple[str, torch.dtype]] = Counter()
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}
        self._sizes: dict[int, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is counted under this name."""
        before, self.name = self.name, name
        try:
            yield
        finally:
            self.name = before

    def empty_cache(self) -> None:
        """As `torch.cuda.empty_cache`."""
        self.events.append(Event("empty", 0, 0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(func).rsplit(".", 1)[0], kwargs or {}
        inputs = _tensors((args, kwargs))
        if name == "aten._local_scalar_dense":  # the number itself is not known: one that is finite, and not 0
            self._wait(name, inputs)
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].dtype.is_floating_point else 1)
        with self:  # what PyTorch makes of several operations is seen as these
            apart = name.startswith("aten.") and name not in UNDIVIDED
            result = func.decompose(*args, **kwargs) if apart else NotImplemented
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if name in COPIES:
            self._copied(name, args, kwargs, result)
        elif name in WAITS or (name.startswith("aten.index") and self._by_mask(args)):
            self._wait(name, inputs)
        made = _tensors(result)
        self._count(name.removeprefix("aten."), inputs, made)
        for tensor in made:
            self._made(tensor)
        return result

    def _by_mask(self, args: Any) -> bool:
        indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)

    def _wait(self, name: str, inputs: list[Tensor]) -> None:
        if any(tensor.device.type == "cuda" for tensor in inputs):
            self.waits[self.name, name.removeprefix("aten.")] += 1

    def _copied(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        source = args[0] if name == "aten._to_copy" else args[1]
        asynchronous = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2] is True)
        if not isinstance(source, Tensor) or source.device.type == result.device.type:
            return
        way = f"{source.device.type} to {result.device.type}"
        self.copies[self.name, way] += 1
        if result.device.type == "cpu" or not asynchronous:
            self.waits[self.name, f"copy {way}"] += 1

    def _count(self, name: str, inputs: list[Tensor], made: list[Tensor]) -> None:
        """A kernel, and the bytes that it reads and writes, products and attention apart."""
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        views = made and all(tensor.untyped_storage()._cdata in storages for tensor in made)
        if not made or made[0].device.type != "cuda" or (views and not name.endswith("_")) or name.startswith("empty"):
            return
        if name in PRODUCTS:
            matrices = [tensor for tensor in inputs if tensor.ndim > 1]
            left, right = matrices[:2] if name == "_scaled_mm" else matrices[-2:]
            self.products[self.name, left.dtype] += 2 * math.prod(left.shape) * right.shape[-1]
            return
        self.kernels[self.name] += 1
        self.moved[self.name] += sum(tensor.nbytes for tensor in (*inputs, *made) if tensor.device.type == "cuda")

    def _made(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            self._sizes[key], self._views[key] = size, []
            self.live += size
            self.peak = max(self.peak, self.live)
            self.events.append(Event("alloc", key, size))
            weakref.finalize(storage, self._freed, key, size).atexit = False
        if size >= LARGE:
            self._views[key].append(weakref.ref(tensor))

    def _freed(self, key: int, size: int) -> None:
        if self._sizes.pop(key, None) is not None:
            del self._views[key]
            self.live -= size
            self.events.append(Event("free", key, size))

    def held_by_views(self, share: float = 0.6) -> list[int]:
        """Sizes of the buffers of which less than `share` is in use, kept alive by a view of a part."""
        held = []
        for key, views in self._views.items():
            alive = [tensor for view in views if (tensor := view()) is not None]
            used = sum(_covered(tensor) for tensor in alive)
            if alive and used < share * self._sizes[key]:
                held.append(self._sizes[key])
        return held


def _covered(tensor: Tensor) -> int:
    """Bytes of the storage that a tensor reads: a dimension that is only repeated counts once."""
    sides = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sides) * tensor.element_size()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
