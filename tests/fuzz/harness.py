"""Runs a case for one seed after another, each in a process of its own, and says which went wrong.

A fuzzer is a function `case(seed, folder)`, in a module here: it makes a hostile file in the empty folder, from the
seed alone, and has it read. Returning is fine, and so is a `LiveTalkError` whose message is short. Wrong are any other
exception, a crash, more than `MOST_SECONDS` of CPU time, and more than `MOST_MEMORY`.

    python -m tests.fuzz --seconds 3600            an hour of all fuzzers together
    python -m tests.fuzz sound --case 1234         one case again
"""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MOST_MEMORY = 1_500 * 2**20
"""Bytes that a process may have resident, the libraries counted."""
ROOM = 4 * 2**30
"""Bytes of address space that a case may add: protects the machine, not measured."""
MOST_SECONDS = 20
LONGEST_MESSAGE = 2_000


FUZZERS = ("sound", "sidecar", "pictures", "weights", "configs", "pickles", "tokenizers")


class Fault(NamedTuple):
    """What a case did that none may do."""

    seed: int
    what: str


def case_of(fuzzer: str) -> Callable[[int, Path], None]:
    """The fuzzer of a name in `FUZZERS`."""
    if fuzzer in ("sound", "sidecar"):
        return import_module(f"tests.fuzz.{fuzzer}").case
    return import_module("tests.fuzz.mutants").case_of(fuzzer)


def faults(fuzzer: str, seconds: float, first_seed: int = 0) -> list[Fault]:
    """Run the cases of a fuzzer from `first_seed` on for so many seconds; what went wrong. At least one case runs."""
    wrong: list[Fault] = []
    command = [sys.executable, "-m", "tests.fuzz.harness", fuzzer]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout
        end, seed = time.monotonic() + seconds, first_seed
        while seed == first_seed or time.monotonic() < end:
            server.stdin.write(f"{seed}\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline() or '"the fuzzer itself has ended"')
            if answer:
                wrong.append(Fault(seed, answer))
            if server.poll() is not None:
                break
            seed += 1
        server.stdin.close()
    assert server.returncode == 0, f"the fuzzer of {fuzzer} ended with {server.returncode}"
    return wrong


def serve(fuzzer: str) -> None:
    """Answer each seed on the standard input with a line of JSON: "" or what went wrong."""
    warnings.simplefilter("ignore")
    logging.disable()
    case = case_of(fuzzer)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(one(case, int(line))) + "\n")
        answers.flush()


def one(case, seed: int) -> str:
    """Run one case in a fork: "" or what went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    said = folder.with_suffix(".said")
    try:
        process = os.fork()
        if process == 0:
            _in_child(case, seed, folder, said)
        _, status, usage = os.wait4(process, 0)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if os.WIFSIGNALED(status):
            return f"ended by signal {os.WTERMSIG(status)} after {usage.ru_utime:.1f} s"
        if memory > MOST_MEMORY:
            return f"took {memory / 2**20:.0f} MiB"
        return said.read_text(errors="replace") if os.WEXITSTATUS(status) else ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        said.unlink(missing_ok=True)


def _in_child(case, seed: int, folder: Path, said: Path) -> None:
    """Never returns: exits with 0 where all is well, 1 with the reason in `said`."""
    from livetalk_core.errors import LiveTalkError

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if os.name == "posix" else 0
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 1))
    wrong = ""
    try:
        case(seed, folder)
    except LiveTalkError as error:
        wrong = "" if len(str(error)) <= LONGEST_MESSAGE else f"a message of {len(str(error))} characters"
    except BaseException:
        wrong = traceback.format_exc()
    if wrong:
        said.write_text(wrong)
    os._exit(bool(wrong))


if __name__ == "__main__":
    serve(sys.argv[1])
