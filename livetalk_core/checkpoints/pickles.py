"""PyTorch's pickles (.pth, .pt, .bin): looked through before they are read, so that none takes more than it holds.

`torch.load` with `weights_only` runs no code of a pickle, but it builds what the pickle says: a small file may ask for
any amount of memory, or of time. What is refused here before that: archives that are compressed, more instructions than
a list of weights needs, and nests that double with each; afterwards, tensors that together are much larger than their
file.
"""

import pickletools
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import CheckpointError
from .header import AGAIN

SAFE_TORCH = "2.10"
"""Versions before it have known holes in `weights_only`."""
ARCHIVE = b"PK\x03\x04"
PICKLE = "data.pkl"
MAX_PICKLE = 64 * 2**20
"""Bytes of a pickle in an archive; the numbers lie beside it."""
MAX_INSTRUCTIONS = 1_000_000
"""Of a pickle: a tensor takes about 40, and the largest published models have 2,000."""
MAX_SHARED = 4
"""How many times their file's size the tensors may have together: weights that layers share lie in it once."""
ALLOCATE = ("bytearray", "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy")
"""The names that `weights_only` lets pass and that fill as much memory as they are told to."""
PUTS, GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
"""Instructions that remember the last object by a number, and give it out again."""
LEGACY_PICKLES = 5
"""Pickles before the numbers in a file of PyTorch before 1.6: magic, version, system, weights, names of storages."""


def read_pickle(source: Path) -> dict[str, Tensor]:
    """A pickle's tensors, mapped where its format allows; nothing in it is run. `CheckpointError` for any other."""
    if torch.__version__ < SAFE_TORCH:
        raise CheckpointError(
            f"torch {torch.__version__} cannot read {source} safely; needed is {SAFE_TORCH} or newer: update torch, "
            "or convert on another machine"
        )
    try:
        archive = _begins_as_archive(source)
        _look_through_archive(source) if archive else _look_through_legacy(source)
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=archive)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(
            f"{source} is damaged, or holds more than tensors ({_reason(error)}); needed is a plain state dict: {AGAIN}"
        ) from None
    tensors = _tensors(content)
    if not tensors:
        raise CheckpointError(f"{source} holds no tensors by name; needed is a plain state dict")
    _check_tensors(source, tensors)
    return tensors


def _begins_as_archive(source: Path) -> bool:
    """As PyTorch tells its two formats apart."""
    with source.open("rb") as file:
        return file.read(len(ARCHIVE)) == ARCHIVE


def _reason(error: Exception) -> str:
    """What is wrong, in our words: PyTorch's own advise to switch `weights_only` off, which would run the code."""
    code = re.search(r"GLOBAL ([\w.]+)", str(error))
    if code is not None:
        return f"it names {code[1]}, which is code"
    return str(error).strip().partition("\n")[0] if isinstance(error, (OSError, EOFError)) else type(error).__name__


def _look_through_archive(source: Path) -> None:
    """Raise `CheckpointError` for an archive that unpacks to more than it is, or whose pickle is too long."""
    with zipfile.ZipFile(source) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith(PICKLE)]
        if len(pickles) > 1:
            raise CheckpointError(f"{source} has {len(pickles)} lists of weights; PyTorch writes one: {AGAIN}")
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{source} is a compressed archive, which may unpack to any size; PyTorch writes none: {AGAIN}"
                )
            if not entry.filename.endswith(PICKLE):
                continue
            if entry.file_size > MAX_PICKLE:
                raise CheckpointError(
                    f"{source} has {entry.file_size:,} bytes of instructions; at most {MAX_PICKLE:,} are read: {AGAIN}"
                )
            _look_through(BytesIO(archive.read(entry)), source)


def _look_through_legacy(source: Path) -> None:
    with source.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            _look_through(file, source)


def _look_through(file: BinaryIO, source: Path) -> None:
    """Go through one pickle's instructions without doing what they say."""
    sizes = _Sizes()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count > MAX_INSTRUCTIONS:
            raise CheckpointError(
                f"{source} has over {MAX_INSTRUCTIONS:,} instructions; a state dict needs some thousands: {AGAIN}"
            )
        if instruction.name == "GLOBAL" and str(argument).endswith(ALLOCATE):
            raise CheckpointError(f"{source} asks for memory that no tensor needs ({argument}): {AGAIN}")
        if sizes.after(instruction, argument) > MAX_INSTRUCTIONS:
            raise CheckpointError(
                f"{source} nests the same objects so often that they are over {MAX_INSTRUCTIONS:,}, which no state "
                f"dict needs: {AGAIN}"
            )


class _Sizes:
    """Of how many objects each one on a pickle's stack consists; what is in it many times counts as many times.

    So many are visited where it is a key of a dict: tuples of twice the tuple before would take for ever.
    """

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None: a mark
        self._memo: dict[Any, int] = {}

    def after(self, instruction: pickletools.OpcodeInfo, argument: Any) -> int:
        """The size of what this instruction puts on the stack; of an unknown one 1."""
        if instruction.name in PUTS:
            self._memo[argument] = size = self._last()
            return size
        size = 1 + self._taken(instruction.stack_before)
        if instruction.name in GETS:
            size = self._memo.get(argument, 1)
        left = instruction.stack_after
        self._stack += [None if kind is pickletools.markobject else size for kind in left]
        return size

    def _last(self) -> int:
        return (self._stack[-1] if self._stack else None) or 1

    def _taken(self, kinds: list[pickletools.StackObject]) -> int:
        """Take from the stack what an instruction takes: so many objects, all from the last mark on, or both."""
        count, size = len(kinds), 0
        if pickletools.markobject in kinds:
            count = kinds.index(pickletools.markobject)
            while self._stack and (last := self._stack.pop()) is not None:
                size += last
        for _ in range(min(count, len(self._stack))):
            size += self._stack.pop() or 1
        return size


def _tensors(content: object) -> dict[str, Tensor]:
    """The tensors of a state dict, or of one inside `state_dict` or `model`."""
    if not isinstance(content, dict):
        return {}
    inner = (content[name] for name in ("state_dict", "model") if isinstance(content.get(name), dict))
    dicts = ({str(name): x.detach() for name, x in d.items() if isinstance(x, Tensor)} for d in (content, *inner))
    return next(filter(None, dicts), {})


def _check_tensors(source: Path, tensors: dict[str, Tensor]) -> None:
    """Raise `CheckpointError` for tensors without numbers of their own, or with more than the file has."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(
                f"{source}: {name} is {tensor.layout} on {tensor.device}; needed are plain numbers: {AGAIN}"
            )
    size, size_of_file = sum(tensor.nbytes for tensor in tensors.values()), source.stat().st_size
    if size > MAX_SHARED * size_of_file:
        raise CheckpointError(
            f"{source} has {size_of_file:,} bytes and tensors of {size:,}; the same numbers are given out many times, "
            f"which no weights need: {AGAIN}"
        )
