"""Safetensors files, looked at before they are loaded.

`Checkpoint` reads names, shapes and dtypes without touching the weights, and hands out memory-mapped
tensors. `check` compares all of them with what a model needs, in one report. A file that is something
else is named for what it is.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import MISSING, check_readable, fault_of

INDEX_ENDING = ".safetensors.index.json"
REPORT_LINES = 20
SAMPLE_BYTES = 4096
"""What is read of each tensor to tell weights apart."""
MAX_TENSORS = 20_000
"""The 14B model has 1,827."""
MAX_HEADER = 2**24
"""Bytes of a header; the 14B model's has 200,000."""
MAX_JSON = 2**26
"""Bytes of a config or an index; the 14B model's index has 150,000."""
AGAIN = "download it again, from its publisher"
CONVERT = "python -m livetalk_core convert"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""The dtypes that are read, by their names in a header."""

PICKLE = rb"PK\x03\x04|\x80[\x02-\x05]"
SIGNATURES = (
    (rb"version https://git-lfs", "a git-LFS pointer, not the weights: run `git lfs pull`, or download the file"),
    (rb"\s*<(?:!doctype|html|head|\?xml|!--)", "a web page, not weights: download the file again (log in if asked)"),
    (PICKLE, "a pickle (.pth, .bin), which may run code: {conversion}"),
    (rb"GGUF", "a GGUF file, which is not read: use the safetensors file of the same model"),
)
"""How wrong files begin, and what to say."""


class Checkpoint(Mapping[str, Tensor]):
    """The weights of one or more safetensors files; a tensor is mapped from its file when asked for."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files = path, tuple(files)
        self._handles = {file: _open(file) for file in files}
        self._home = {name: file for file, handle in self._handles.items() for name in handle.keys()}  # noqa: SIM118
        if len(self._home) > MAX_TENSORS:
            raise CheckpointError(
                f"{path} has {len(self._home):,} tensors; no model that is read here has over {MAX_TENSORS:,}: {AGAIN}"
            )
        handles = self._handles.values()
        self.metadata: dict[str, str] = {key: value for h in handles for key, value in (h.metadata() or {}).items()}
        self._mapped: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        file = self._home[name]
        if file not in self._mapped:
            self._mapped[file] = _map(file)
        return self._mapped[file].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def __contains__(self, name: object) -> bool:
        return name in self._home  # without mapping the file

    def header(self) -> dict[str, Tensor]:
        """Every name with its shape and dtype, as tensors on the meta device; no weight is read."""
        return {name: self.placeholder(name) for name in self}

    def config(self, beside: bool) -> dict[str, Any]:
        """The model's `config` from the file's metadata, else, if `beside`, from a `config.json` in its folder.

        The published folder's `config.json` is the transformer's: other parts must not read it.
        """
        text = self.metadata.get("config")
        file = self.path.with_name("config.json")
        if text is not None:
            return json_object(text, f"the config of {self.path}")
        return json_file(file) if beside and fault_of(file) != MISSING else {}

    def placeholder(self, name: str) -> Tensor:
        """A weight's shape and dtype, as a tensor on the meta device."""
        entry = self._handles[self._home[name]].get_slice(name)
        dtype = DTYPES.get(entry.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{self.path}: {name} is stored as {entry.get_dtype()}; readable are {', '.join(DTYPES)}: "
                "use a file in one of these"
            )
        try:
            return torch.empty(entry.get_shape(), dtype=dtype, device="meta")
        except (TypeError, RuntimeError):  # numbers that no tensor's sides can be
            raise CheckpointError(
                f"{self.path}: {name} is {entry.get_shape()}, which no tensor can be; download the file again"
            ) from None


def open_checkpoint(path: Path) -> Checkpoint:
    """A safetensors file, an index of shards, or a folder that holds either."""
    check_readable(path, "the weights", "a safetensors file, or a folder of them,", CheckpointError, folders=True)
    path = _weights_in(path) if path.is_dir() else path
    files = _shards(path) if path.name.endswith(INDEX_ENDING) else [path]
    return Checkpoint(path, files)


def conversion(pickle: Path) -> str:
    """The command that makes a safetensors file of a pickle."""
    return f"`{CONVERT} {quote(str(pickle))} {quote(str(pickle.with_suffix('.safetensors')))}`"


def joined(model: Checkpoint, patch: Checkpoint) -> Checkpoint:
    """A model with the weights that a patch adds to it, or puts in the place of its own."""
    return Checkpoint(model.path, (*model.files, *patch.files))


def _weights_in(folder: Path) -> Path:
    indices, files = sorted(folder.glob(f"*{INDEX_ENDING}")), sorted(folder.glob("*.safetensors"))
    candidates = indices or files
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(file.name for file in candidates[:5])
        raise CheckpointError(
            f"{folder} holds {len(candidates)} sets of weights ({names}); needed is one: name the file"
        )
    pickles = [file.name for ending in ("*.pth", "*.bin") for file in sorted(folder.glob(ending))]
    remedy = conversion(folder / pickles[0]) if pickles else "download the weights into it"
    raise CheckpointError(f"{folder} holds no safetensors file ({len(pickles)} pickles); needed is one: {remedy}")


def _shards(index: Path) -> list[Path]:
    where = json_file(index).get("weight_map")
    names = list(where.values()) if isinstance(where, dict) else []
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} is no index of shards beside it; needed: a `weight_map` of file names")
    names, there = sorted(set(names)), {file.name for file in index.parent.iterdir()}
    missing = [name for name in names if name not in there]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards are missing in {index.parent}: {', '.join(missing)}; download them"
        )
    return [index.with_name(name) for name in names]


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        if (size := path.stat().st_size) > MAX_JSON:
            raise CheckpointError(f"{path} has {size:,} bytes; at most {MAX_JSON:,} are read: {AGAIN}")
        return json_object(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again") from None


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object; `what` it is goes into the error."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON that can be read ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{what} is not a JSON object; download it again")
    return content


def fingerprint(files: Iterable[Path]) -> str:
    """Tells safetensors files from others, by their headers and the beginning of each tensor.

    Training changes every tensor all over; of the largest model, some 10 MB are read.
    """
    digest = hashlib.sha256()
    for path in files:
        for sample in _samples(path):
            digest.update(sample)
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        header = read_header(file)
        yield header
        entries, begin = json.loads(header), file.tell()
        for start in sorted(entries[name]["data_offsets"][0] for name in entries if name != "__metadata__"):
            file.seek(begin + start)
            yield file.read(SAMPLE_BYTES)


def read_header(file: BinaryIO) -> bytes:
    """A safetensors file's header, as much as there is of it; the numbers come after it."""
    return file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER))


def is_pickle(path: Path) -> bool:
    """Whether a file begins as PyTorch's pickles (.pth, .pt, .bin) do."""
    return fault_of(path) is None and _begins_as(PICKLE, _start(path))


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror}; needed: a safetensors file"


def _begins_as(pattern: bytes, start: bytes) -> bool:
    return not _looks_right(start) and re.match(pattern, start, re.IGNORECASE) is not None


def _looks_right(start: bytes) -> bool:
    """Whether a file begins as safetensors do: a number, whose bytes may look like anything, and JSON."""
    return start[8:9] == b"{"


def _open(path: Path) -> Any:
    """safetensors' handle of a file, or a `CheckpointError` that says what the file is."""
    start = _start(path)
    if not start:
        raise CheckpointError(f"{path} is empty; needed: a safetensors file: download it again")
    for pattern, verdict in SIGNATURES:
        if _begins_as(pattern, start):
            raise CheckpointError(f"{path} is {verdict.format(conversion=conversion(path))}")
    length = int.from_bytes(start[:8], "little")
    if _looks_right(start) and MAX_HEADER < length < path.stat().st_size:
        raise CheckpointError(f"{path} has a header of {length:,} bytes; at most {MAX_HEADER:,} are read: {AGAIN}")
    try:
        with said_by_the_system(path):
            return safe_open(path, framework="np")  # reads the header; "pt" would map the whole file at once
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CheckpointError(_unreadable(path, error)) from None
        raise CheckpointError(_damage(path, start, error)) from None


@contextmanager
def said_by_the_system(path: Path) -> Iterator[None]:
    """Raise the system's own `OSError` where safetensors says of a file that it does not exist.

    It says so of every file that it cannot open, also where no descriptor is left.
    """
    try:
        yield
    except FileNotFoundError:
        path.open("rb").close()
        raise


def _map(path: Path) -> Any:
    """safetensors' handle that gives tensors mapped from the file."""
    try:
        with said_by_the_system(path):
            return safe_open(path, framework="pt")
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be mapped into memory; needed is more memory or swap: "
            "use the model in shards, or an FP8 file"
        ) from error


def _damage(path: Path, start: bytes, error: Exception) -> str:
    size, needed = path.stat().st_size, _promised_size(path, start)
    if needed is not None and needed > size:
        return f"{path} has {size:,} of {needed:,} bytes: the download was cut short; download it again"
    return f"{path} is not a safetensors file, or a damaged one ({error}); download it again"


def _promised_size(path: Path, start: bytes) -> int | None:
    """Bytes that a safetensors header says the file has; None where there is no such header."""
    length = int.from_bytes(start[:8], "little")
    if not _looks_right(start) or length > MAX_HEADER:
        return None
    with path.open("rb") as file:
        header = read_header(file)
    if len(header) < length:
        return 8 + length
    try:
        entries = json.loads(header)
        return 8 + length + max((e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def check(needed: Mapping[str, Tensor], stored: Mapping[str, Tensor], what: str) -> None:
    """Compare names, shapes and dtypes; raise one `CheckpointError` that lists every difference.

    Layers that differ in the same way share a line. A floating-point weight may have any floating dtype.
    """
    lines = [
        *_grouped("missing", [(name, _shape(needed[name])) for name in needed if name not in stored]),
        *_grouped("unexpected", [(name, _shape(stored[name])) for name in stored if name not in needed]),
        *_grouped("wrong shape", [(n, d) for n in needed if n in stored and (d := _shape_fault(needed[n], stored[n]))]),
        *_grouped("wrong dtype", [(n, d) for n in needed if n in stored and (d := _dtype_fault(needed[n], stored[n]))]),
    ]
    if not lines:
        return
    shown = lines[:REPORT_LINES]
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown)} more such lines")
    raise CheckpointError("\n".join([f"{what} does not have exactly the weights that are needed:", *shown]))


def _grouped(verdict: str, faults: list[tuple[str, str]]) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, detail in faults:
        groups[re.sub(r"\d+", "*", name), detail].append(name)
    return [
        f"  {verdict}: {names[0] if len(names) == 1 else f'{pattern} ({len(names)} of them)'} {detail}"
        for (pattern, detail), names in groups.items()
    ]


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _shape_fault(needed: Tensor, stored: Tensor) -> str:
    return "" if needed.shape == stored.shape else f"{_shape(stored)}, needs {_shape(needed)}"


def _dtype_fault(needed: Tensor, stored: Tensor) -> str:
    if needed.is_floating_point() == stored.is_floating_point():
        return ""
    return f"{stored.dtype}, needs {'floating point' if needed.is_floating_point() else needed.dtype}"
