"""Seconds of a chunk's parts, taken while a session runs."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...streaming.avatar import Avatar
from ...streaming.engine import Engine, OnStep

STEP, DECODE, ENCODE = "transformer step", "VAE decode", "VAE encode"


class Stopwatch:
    """`seconds` of every run of each part, in order; the device has finished what was begun when time is taken."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Note how long the body takes."""
        begun = self.now()
        yield
        self.seconds[part].append(self.now() - begun)

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, each of its runs noted."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.measure(part):
                return call(*args, **kwargs)

        return measured

    def total(self) -> float:
        """All seconds noted so far."""
        return sum(map(sum, self.seconds.values()))


class TimedEngine:
    """An engine, the seconds of its steps and of the VAE noted; a chunk's first step includes embedding its sound."""

    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        self.engine, self.watch = engine, watch

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        begun = self.watch.now()

        def stepped(done: int) -> None:
            nonlocal begun
            self.watch.seconds[STEP].append(self.watch.now() - begun)
            on_step(done)
            begun = self.watch.now()

        return self.engine.denoise(avatar, audio, motion, noise, stepped)

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`; what is done between the groups does not count."""
        spent, begun = 0.0, self.watch.now()
        for group in self.engine.decode(latent):
            spent += self.watch.now() - begun
            yield group
            begun = self.watch.now()
        self.watch.seconds[DECODE].append(spent + self.watch.now() - begun)

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Engine.encode`."""
        with self.watch.measure(ENCODE):
            return self.engine.encode(frames, noise)
