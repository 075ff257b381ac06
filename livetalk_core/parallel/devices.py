"""Which devices a fleet runs on, as users write it: `auto`, `cuda:0,cuda:1`, `cuda x2`, `cpu x4`."""

import logging
import os
import re
import sys
from collections.abc import Sequence

import torch

from ..errors import InputError

MOST_PORT = 65535
MOST_SHOWN = 80
"""Letters of what a user wrote that a message repeats."""
HAS_BFLOAT16 = 8
"""The first major compute capability that multiplies bfloat16."""
NAMED = 8
"""Devices that a message names at most."""
MOST_ON_A_CORE = 16
"""CPU workers that one core can have: for trying out, and each takes some 400 MB."""
FORMS = "write auto, cuda:0,cuda:1, cuda x2 or cpu x2"


def parse_devices(text: str) -> list[str]:
    """One device a worker. `auto`: the GPUs that are fastest together, or the CPU where there is none."""
    if sys.platform == "win32":
        raise InputError(
            f"devices {text!r} on Windows; several are for Linux and WSL, since NCCL has no Windows version: use one"
        )
    devices = [device for part in text.split(",") for device in _devices(part.strip().lower())]
    _check(devices, torch.cuda.device_count())
    return devices


def _devices(part: str) -> list[str]:
    if part == "auto":
        return [f"cuda:{index}" for index in fastest_together(torch.cuda.device_count())] or ["cpu"]
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,4}))?(?:\s*x\s*(\d{1,4}))?", part)
    if match is None or (match[2] and (match[1] == "cpu" or match[3])):
        raise InputError(f"devices {part!r}; {FORMS}")
    kind, index, count = match[1], match[2], int(match[3] or 1)
    if count < 1:
        raise InputError(f"devices {part!r}: {count} workers cannot work; the nearest number that can is 1")
    if kind == "cpu":
        return ["cpu"] * count
    return [f"cuda:{index}"] if index else [f"cuda:{number}" for number in range(count)]


def fastest_together(gpus: int) -> list[int]:
    """Those of so many GPUs that are soonest done: work is split equally, so the slowest one sets the pace.

    A GPU without bfloat16 (before compute capability 8) is left out beside one that has it.
    """
    properties = [torch.cuda.get_device_properties(index) for index in range(gpus)]
    newest = max((gpu.major for gpu in properties), default=0)
    speeds = {
        index: gpu.multi_processor_count
        for index, gpu in enumerate(properties)
        if gpu.major >= HAS_BFLOAT16 or newest < HAS_BFLOAT16
    }
    ranked = sorted(speeds, key=lambda index: (-speeds[index], index))
    most = max(range(len(ranked)), key=lambda last: ((last + 1) * speeds[ranked[last]], last), default=-1)
    taken = sorted(ranked[: most + 1])
    for index in sorted(set(range(gpus)) - set(taken)):
        logging.warning(
            "cuda:%d (%s) is left out: the others are sooner done without it", index, properties[index].name
        )
    return taken


def _check(devices: Sequence[str], gpus: int) -> None:
    """Raise `InputError` for GPUs that are not there, or named twice; warn where CPUs are too few to gain anything."""
    cuda = [device for device in devices if device != "cpu"]
    missing = [device for device in cuda if int(device.split(":")[1]) >= gpus]
    if missing:
        raise InputError(
            f"devices {', '.join(missing[:NAMED])}{', ...' * (len(missing) > NAMED)}: this machine has {gpus} GPU(s); "
            + (f"the most that can work is cuda x{gpus}" if gpus else "cpu, or cpu x2 for trying out, can work")
        )
    twice = sorted({device for device in cuda if cuda.count(device) > 1})
    if twice:
        raise InputError(f"devices {', '.join(twice)} named twice; each GPU runs one worker: name each once")
    if cuda and len(cuda) < len(devices):
        raise InputError("devices of both kinds; the workers of a fleet are all GPUs or all CPUs: leave one kind out")
    cores = os.cpu_count() or 1
    if len(devices) - len(cuda) > MOST_ON_A_CORE * cores:
        raise InputError(
            f"devices cpu x{len(devices)}: this machine has {cores} core(s); the most that can work is "
            f"cpu x{MOST_ON_A_CORE * cores}"
        )
    if len(devices) - len(cuda) > cores:
        logging.warning("%d CPU workers on %d cores: they take turns, so this is slower", len(devices), cores)


def parse_mesh(text: str | None) -> tuple[int, int] | None:
    """`ulysses=2,ring=2` -> (2, 2); either alone is that and 1 of the other. None without a text: the default."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:ulysses=(\d{1,4}))?,?(?:ring=(\d{1,4}))?", text.replace(" ", ""))
    degrees = [] if match is None else [int(number) for number in match.groups() if number]
    if match is None or not degrees or 0 in degrees:
        raise InputError(f"mesh {text!r}; write ulysses=2,ring=2: their product is the number of devices")
    return int(match[1] or 1), int(match[2] or 1)


def parse_hosts(text: str) -> tuple[tuple[str, int], int] | None:
    """`192.168.1.5:29700 x4` -> ((host, port), 4): where workers are waited for, and how many. None without a text."""
    if not text.strip():
        return None
    where, _, count = text.strip().rpartition("x")
    if not where.rstrip() or not count.strip().isdigit() or not int(count):
        raise InputError(f"hosts {text!r}; write where to wait for how many workers, such as 192.168.1.5:29700 x4")
    return address(where.rstrip()), int(count)


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` -> (host, port)."""
    host, _, port = text.rpartition(":")
    if not _can_be_a_host(host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > MOST_PORT:
        raise InputError(f"address {text[:MOST_SHOWN]!r}; write HOST:PORT, such as 192.168.1.5:29700")
    return host.strip("[]"), int(port)


def _can_be_a_host(text: str) -> bool:
    """Whether the system can look it up: it encodes names as RFC 3490 says, and takes none with spaces."""
    try:
        return bool(text) and text.isprintable() and " " not in text and bool(text.encode("idna"))
    except UnicodeError:  # a part that is empty, or longer than 63 letters
        return False


def shown_address(host: str, port: int) -> str:
    """The inverse of `address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
