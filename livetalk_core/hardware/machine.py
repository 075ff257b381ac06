"""What this machine is: for `info`, and for the record that `bench` keeps."""

import gc
import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import __version__
from ..errors import InputError

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = r"(?:CUDA error|Triton Error \[CUDA\]|CUDA driver error): out of memory|CU\w+_STATUS_ALLOC_FAILED"
"""What is said where CUDA, Triton, cuBLAS or cuDNN get none."""


def commit(checkout: Path = ROOT) -> str:
    """A checkout's or worktree's commit; for one without git its version, if it is ours."""
    unknown = f"version {__version__}" if checkout == ROOT else "unknown"
    git = checkout / ".git"
    if git.is_file():  # of a worktree: it names the folder of its own, and that the one that all share
        git = checkout / git.read_text().strip().removeprefix("gitdir: ")
    if not (git / "HEAD").is_file():
        return unknown
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
    reference = (git / "HEAD").read_text().strip()
    if not reference.startswith("ref: "):
        return reference
    name = reference.removeprefix("ref: ")
    loose, packed = shared / name, shared / "packed-refs"
    if loose.is_file():
        return loose.read_text().strip()
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), unknown)


def total_ram() -> int:
    """Bytes of main memory."""
    return psutil.virtual_memory().total


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU where there is none; other names as torch has them."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # `meta` and the like hold no numbers
    except Exception as error:  # each back end that is not there has its own
        reason = re.split(r"\. |: | device type at|\n", str(error))[0]
        raise InputError(
            f"device {name[:40]!r} cannot be used ({reason[:200]}); use cpu, cuda, cuda:0 ... or auto"
        ) from None
    return device


@torch.compiler.assume_constant_result
def attends_in_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has fused kernels for bfloat16: NVIDIA's from compute capability 8.0 on, and AMD's."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def default_dtype(device: torch.device) -> torch.dtype:
    """In which a device computes fastest; of 16 bits bfloat16, where PyTorch attends in it without keeping all scores.

    On NVIDIA's GPUs before compute capability 8.0 its memory-efficient kernels take float16 and float32 alone.
    """
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or attends_in_bfloat16(device) else torch.float16


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def give_back_memory() -> None:
    """Give back what PyTorch keeps of the GPUs' memory for later: other processes are about to ask for it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left, for PyTorch's tensors or beside these.

    What CUDA, its libraries and Triton take themselves is refused by errors that have nothing but their text.
    """
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)) is not None
    )


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on a GPU those that PyTorch allocated, on the CPU this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent process held before this one was started
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        memory: Any = psutil.Process().memory_info()
        return memory.peak_wset
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe() -> dict[str, Any]:
    """Machine and versions."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_bytes": total_ram(),
        "gpus": gpus,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "livetalk": __version__,
        "commit": commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
