"""Options that several commands share, and what they stand for."""

import argparse
import math
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from ..config import LARGEST_SEED
from ..errors import Cancelled, InputError
from ..hardware.amount import parse_memory

if TYPE_CHECKING:  # these take seconds to import: `--help` does without
    import torch

    from ..hardware.placement import Placement

ATTENTION = ("auto", "sdpa", "cudnn", "flash2", "flash3", "xformers", "sage")
"""`auto`, and the names of `hardware.kernels.KERNELS`."""
DTYPES = ("float32", "bfloat16", "float16")
MOST_PORT = 65535
SCHEME_PORTS = {"http": 80, "https": 443}
STOPPED_BY = ("SIGINT", "SIGTERM", "SIGHUP")


def size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` -> (height, width)."""
    sides = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
    if sides is None:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no size; write WIDTHxHEIGHT, such as 448x768")
    return int(sides[2]), int(sides[1])


def memory(text: str) -> int:
    """`16G`, `22.5G` or `512M` -> bytes."""
    try:
        return parse_memory(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"\d{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r}; a whole number of at least 1 is needed")
    return int(text)


def count(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r}; a whole number of at least 0 is needed")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0: any that is free."""
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > MOST_PORT:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no port; a number up to {MOST_PORT} is needed")
    return int(text)


def minutes(text: str) -> float:
    """More than none, and not for ever."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no time; a number of minutes above 0 is needed")
    return value


def seed(text: str) -> int:
    """A whole number of at most 64 bits."""
    if not re.fullmatch(r"-?\d{1,20}", text) or not abs(int(text)) <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is no seed; a whole number up to {LARGEST_SEED} is needed")
    return int(text)


def words(text: str) -> str:
    """What a text encoder can read: bytes of the command line that are no UTF-8 are none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{ascii(text)[:50]} is no text; UTF-8 is needed") from None
    return text


def web_address(text: str) -> str:
    """The address of a web server's page or service."""
    _address(text, ("http", "https"), "http://localhost:8880/v1/audio/speech")
    return text


def rtmp_address(text: str) -> str:
    """Where an RTMP server takes a stream: its host, and behind that an application and a key."""
    if not _address(text, ("rtmp", "rtmps"), "rtmp://localhost/live/key").path.strip("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} has no path; an address such as rtmp://localhost/live/key is needed"
        )
    return text


def origin(text: str) -> str:
    """A web page's origin as browsers send it: scheme, host, and a port that is not the scheme's own."""
    parts = _address(text, tuple(SCHEME_PORTS), "https://example.org")
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(
            f"{text[:50]!r} is more than an origin; one such as https://example.org is needed"
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    own_port = parts.port in (None, SCHEME_PORTS[parts.scheme])
    return f"{parts.scheme}://{host}" + ("" if own_port else f":{parts.port}")


def _address(text: str, schemes: Sequence[str], example: str) -> SplitResult:
    """An address in its parts, the scheme one of `schemes`."""
    with suppress(ValueError):  # of what is no port, or no name in brackets
        parts = urlsplit(text)
        if parts.scheme in schemes and parts.hostname and parts.port != 0 and re.fullmatch(r"[!-~]+", text):
            return parts
    raise argparse.ArgumentTypeError(
        f"{text[:50]!r} is no address of {' or '.join(schemes)}; one such as {example} is needed"
    )


def machine_options(command: argparse.ArgumentParser) -> None:
    """Add --device and --dtype."""
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    default = "bfloat16 on GPUs, float16 on those before compute capability 8.0, float32 on CPUs"
    command.add_argument("--dtype", choices=DTYPES, help=f"of the weights (default: {default})")


def speed_options(command: argparse.ArgumentParser) -> None:
    """Add --attention and --compile."""
    command.add_argument(
        "--attention", choices=ATTENTION, default="auto",
        help="kernel (default: auto, the fastest exact one here; sage trades precision for speed)",
    )  # fmt: skip
    command.add_argument(
        "--compile", action="store_true",
        help="have torch.compile make graphs of a block and of the VAE: slow to begin, faster afterwards",
    )  # fmt: skip


def join_option(command: argparse.ArgumentParser) -> None:
    """Add the option for joining chunks."""
    command.add_argument(
        "--join", action=argparse.BooleanOptionalAction, default=None,
        help="lead each chunk's first frames from the last one shown to where the chunk goes on (default: where "
        "--correction is on)",
    )  # fmt: skip


def lora_option(command: argparse.ArgumentParser) -> None:
    """Add --lora."""
    command.add_argument(
        "--lora", nargs="+", action="append", default=[], metavar=("FILE", "STRENGTH"),
        help="a LoRA of the model, such as one that `train lora` wrote, and how strong it is (default: 1); may be "
        "given several times",
    )  # fmt: skip


def placement_options(command: argparse.ArgumentParser) -> None:
    """Add --fp8 and --memory."""
    command.add_argument(
        "--fp8", action="store_true",
        help="the blocks' linear layers in FP8: half the memory, faster on GPUs that have it, not exact",
    )  # fmt: skip
    command.add_argument(
        "--memory", type=memory, metavar="SIZE",
        help="most to hold on the device, such as 14G for a card of 16 GB: blocks beyond it stay in main memory",
    )  # fmt: skip


def placement_of(options: argparse.Namespace) -> "Placement":
    """Where the transformer's weights are to lie."""
    from ..hardware.placement import Placement

    return Placement(options.fp8, options.memory)


def device_and_dtype(options: argparse.Namespace) -> "tuple[torch.device, torch.dtype]":
    """The device, and the dtype of the weights on it. Raises `InputError` where --compile cannot compile for it."""
    import torch

    from ..hardware.compiling import check_compiler
    from ..hardware.machine import choose_device, default_dtype

    device = choose_device(options.device)
    if getattr(options, "compile", False):
        check_compiler(device)
    return device, getattr(torch, options.dtype) if options.dtype else default_dtype(device)


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C, a polite kill and a closed terminal stop between two steps' instructions; what is done stays.

    Entered when all imports are done: what they make of an exception is not always that exception.
    """

    def stop(*_: Any) -> None:
        raise Cancelled

    numbers = [number for name in STOPPED_BY if (number := getattr(signal, name, None)) is not None]
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
