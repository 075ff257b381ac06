"""How much of what ranks exchange lies under attention: a trace of two processes' transformer steps.

    python -m benchmarks.overlap [--side 384] [--steps 3] [--link MBIT] [--json FILE]

Two processes of one thread each and the embedded model's widths; Ulysses in one piece, in two and in three, and the
ring. For each exchange the trace has when it was begun, when it had ended (gloo moves the bytes in threads of its own)
and how long the process waited for it; for each call of attention, when it ran. The ways take turns, step by step.

`--link` (as root, with ip and tc) puts the processes on two network namespaces of this machine with a link of so many
megabits a second between them: moving bytes then takes time and hardly a core, as between GPUs or hosts. Without it
they share the two cores of the loopback with the computing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.faults.hosts import LINK, ip, on_host, two_hosts
from livetalk_core.checkpoints import nano
from livetalk_core.hardware.machine import describe
from livetalk_core.models.attention import attend
from livetalk_core.parallel import sequence
from livetalk_core.parallel.mesh import Mesh
from livetalk_core.parallel.partial_attention import attend_partly
from livetalk_core.parallel.sequence import split_sequence
from livetalk_core.parallel.traffic import counted
from livetalk_core.shapes import VideoShape

RANKS = 2
WAYS = {"ulysses": (2, 1), "ulysses, 2 pieces": (2, 2), "ulysses, 3 pieces": (2, 3), "ring": (1, 1)}
"""Ulysses degree and pieces of each way."""
BURST = 2**18
"""Bytes that the limited link lets pass at once."""

Span = tuple[float, float]


class Timeline:
    """Stands in the place of torch.distributed (see `traffic.counted`), and notes when what ranks exchange moves."""

    def __init__(self) -> None:
        self.exchanges: list[list[float]] = []
        self.attention: list[Span] = []
        self.under_way: list[int] = []
        """Of each call of attention: how many exchanges were begun, and not yet waited for."""
        self.waited = 0.0
        self._begun = 0

    def __getattr__(self, name: str) -> Any:
        """All other calls are the original's own."""
        return getattr(dist, name)

    def all_to_all_single(self, *tensors: Any, async_op: bool = False, **options: Any) -> Any:
        """See `torch.distributed.all_to_all_single`."""
        span = [time.perf_counter()]
        self.exchanges.append(span)
        self._begun += 1
        work = dist.all_to_all_single(*tensors, async_op=True, **options)
        assert work is not None
        work.get_future().then(lambda _: span.append(time.perf_counter()))
        waited = Waited(self, work)
        return waited if async_op else waited.wait()

    def wait(self, work: Any) -> None:
        """Wait for an exchange."""
        begun = time.perf_counter()
        work.wait()
        self.waited += time.perf_counter() - begun
        self._begun -= 1

    def attending(self, attention: Callable[..., Any]) -> Callable[..., Any]:
        """`attention`, whose calls are noted."""

        def noted(q: Tensor, k: Tensor, v: Tensor) -> Any:
            begun, under_way = time.perf_counter(), self._begun
            out = attention(q, k, v)
            self.attention.append((begun, time.perf_counter()))
            self.under_way.append(under_way)
            return out

        return noted


class Waited:
    """An exchange that is under way."""

    def __init__(self, timeline: Timeline, work: Any) -> None:
        self._timeline, self._work = timeline, work

    def wait(self) -> None:
        """Wait for its end."""
        self._timeline.wait(self._work)


@contextmanager
def traced() -> Iterator[tuple[Timeline, Callable[..., Any]]]:
    """A timeline of what is computed within the context, with the attention to give to the model."""
    timeline = Timeline()
    partly = timeline.attending(attend_partly)
    with counted(timeline), patch.object(sequence, "attend_partly", partly):
        yield timeline, timeline.attending(attend)


def seconds(spans: Sequence[Span]) -> float:
    """How long at least one of the spans lasts."""
    total, end = 0.0, -float("inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def within(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of `spans` that lie in one of `others`."""
    pairs = [(max(a, c), min(b, d)) for a, b in spans for c, d in others]
    return [(first, last) for first, last in pairs if first < last]


def figures(timeline: Timeline, step: float) -> dict[str, float]:
    """A step's: its seconds, those in which something moved, of these those under attention, and those waited."""
    moving = [(span[0], span[1]) for span in timeline.exchanges]
    parts = {
        "step": step,
        "moving": seconds(moving),
        "under attention": seconds(within(moving, timeline.attention)),
        "waited": timeline.waited,
    }
    return {name: round(value, 4) for name, value in parts.items()}


class Work:
    """A rank's transformer step."""

    def __init__(self, side: int) -> None:
        preset = nano.PRESET
        config = preset.transformer
        shape = VideoShape(preset.stream.frame_num, side, side).latent(preset.geometry)
        torch.manual_seed(0)
        self.model = nano.transformer("cpu", torch.float32)
        self._latent = torch.randn(1, config.out_dim, *shape)
        self._cond = torch.randn(1, config.in_dim - config.out_dim, *shape)
        windows = (1, preset.stream.frame_num, config.audio_window, config.audio_blocks, config.audio_channels)
        self._text = self.model.embed_context(torch.randn(1, 16, config.text_dim), torch.randn(1, 65, config.clip_dim))
        self._sound = self.model.embed_audio(torch.randn(windows))
        self._time = torch.full((1,), 750.0)

    def step(self, ulysses: int, pieces: int) -> tuple[dict[str, float], Tensor]:
        """Its figures, and the result."""
        split_sequence(self.model, Mesh.of(self.model.config.num_heads, ulysses), pieces=pieces)
        dist.barrier()
        with traced() as (timeline, attention):
            begun = time.perf_counter()
            out = self.model(self._latent, self._time, self._cond, self._text, self._sound, attention=attention)
            step = time.perf_counter() - begun
        dist.barrier()  # all futures have run
        return figures(timeline, step), out


@torch.inference_mode()
def run_rank(rank: int, store: str, side: int, steps: int) -> dict[str, Any]:
    """One rank's figures of every way, and whether pieces change a bit."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    work, steps = Work(side), {way: list[dict[str, float]]() for way in WAYS}
    results = {way: work.step(*degree)[1] for way, degree in WAYS.items()}  # the first ones warm up
    for _ in range(steps):
        for way, degree in WAYS.items():
            steps[way].append(work.step(*degree)[0])
    dist.destroy_process_group()
    equal = all(torch.equal(results[way], results["ulysses"]) for way in WAYS if way != "ring")
    return {"steps": steps, "equal": equal}


@contextmanager
def hosts(megabits: int | None) -> Iterator[Callable[[int, list[str]], list[str]]]:
    """What puts a rank's command where it runs: on this host, or on two with a link of so many megabits a second."""
    if megabits is None:
        yield lambda _, words: words
        return
    with two_hosts():
        for host in range(RANKS):
            limit = ["tbf", "rate", f"{megabits}mbit", "burst", str(BURST), "latency", "200ms"]
            subprocess.run(on_host(host, ["tc", "qdisc", "add", "dev", LINK, "root", *limit]), check=True)
            ip("-n", f"livetalk-{host}", "link", "set", LINK, "mtu", "9000")
        yield on_host


def run(side: int, steps: int, megabits: int | None) -> list[dict[str, Any]]:
    """Each rank's figures."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo" if megabits is None else LINK}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        placed = stack.enter_context(hosts(megabits))
        words = [sys.executable, "-m", "benchmarks.overlap", "--side", str(side), "--steps", str(steps)]
        ranks = [
            subprocess.Popen(
                placed(rank, [*words, "--rank", str(rank), "--store", f"{folder}/store"]),
                env=environment, stdout=subprocess.PIPE,
            )
            for rank in range(RANKS)
        ]  # fmt: skip
        said = [rank.communicate()[0] for rank in ranks]
    return [json.loads(each) for each in said]


def table(ranks: Sequence[dict[str, Any]]) -> str:
    """Medians over steps and ranks, as Markdown."""
    lines = [
        "| | step, s | something moves, s | of it under attention | waited, s |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        steps = [step for rank in ranks for step in rank["steps"][way]]
        step, moving, under, waited = (
            statistics.median(each[name] for each in steps) for name in ("step", "moving", "under attention", "waited")
        )
        lines.append(f"| {way} | {step:.2f} | {moving:.2f} | {under / moving:.0%} | {waited:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=384, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=3, help="of each way, after one to warm up")
    parser.add_argument("--link", type=int, metavar="MBIT", help="two namespaces, and so many megabits a second")
    parser.add_argument("--json", type=Path, help="also keep the figures in this file, beside those of other links")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        print(json.dumps(run_rank(options.rank, options.store, options.side, options.steps)))
        return
    ranks = run(options.side, options.steps, options.link)
    print(table(ranks))
    print("pieces change no bit" if all(rank["equal"] for rank in ranks) else "pieces CHANGE the numbers")
    if options.json:
        kept = json.loads(options.json.read_text()) if options.json.exists() else {}
        link = "loopback" if options.link is None else f"{options.link} Mbit/s"
        figure = {"side": options.side, "ranks": ranks, "machine": describe()}
        options.json.write_text(json.dumps({**kept, link: figure}, indent=1) + "\n")


if __name__ == "__main__":
    main()
