"""What a worker runs for `bench --devices`: an engine of random weights, which also says what it sends."""

import time
from contextlib import ExitStack
from typing import Any, cast

import torch
import torch.distributed as dist

from ...hardware.machine import peak_memory
from ...hardware.placement import Placement
from ...models import operations
from ...models.codec import build_vae
from ...parallel import collectives
from ...parallel.traffic import GATHER, counted
from ...parallel.vae import split_vae
from ...parallel.weights import shard_weights, sharing_group
from ...parallel.worker import Job
from ...presets import PRESETS
from ...streaming.engine import LocalEngine
from ...streaming.engine_runner import EngineRunner, dtype_of, host_of, streamed_blocks
from ...streaming.fleet_engine import Ways
from .parts import build_transformer, randomize

RATE_RUNS = 5


class BenchRunner(EngineRunner):
    """See `EngineRunner`; its model is a preset's, of the size that the set-up says."""

    @classmethod
    def of(cls, setup: Job) -> EngineRunner:
        """The runner of a set-up as `bench.fleet` makes it."""
        fields, device, dtype = setup.fields, setup.device, dtype_of(setup)
        height, width = fields["size"]
        ways, preset = Ways(*fields["ways"]), PRESETS[fields["preset"]].sized((height, width))
        streamed = () if ways.memory is None else streamed_blocks(setup, preset)
        home = torch.device("cpu") if fields["sharded"] else device
        transformer = build_transformer(preset, home, dtype, Placement(ways.fp8), streamed)
        if fields["sharded"]:
            group = sharing_group(transformer, device, host_of(setup), everybody(), dtype)
            shard_weights(transformer, device, group, dtype)
        runner = cls.splitting(transformer, setup)
        runner.engine.vae = split_vae(cast(Any, randomize(build_vae(preset.vae, operations, device, dtype))))
        return runner

    def count(self, job: Job) -> None:
        """From now on note what leaves this rank, uncompiled, until `counts`."""
        self._timed, self._counting = self.engine, ExitStack()
        before = self.engine
        self.engine = LocalEngine(before.transformer, before.vae, before.device, attention=before.attention)
        self._sent = self._counting.enter_context(counted())

    def counts(self, job: Job) -> None:
        """Reports the mesh, and for each rank the bytes that it has sent in exchanges and in gathering, and held."""
        self._counting.close()
        self.engine, joined = self._timed, self._sent[GATHER]
        own = [sum(self._sent.values()) - joined, joined, peak_memory(job.device)]
        ranks = collectives.gather(torch.tensor(own, device=job.device), everybody()).tolist()
        job.report({"mesh": [self.mesh.ulysses, self.mesh.ring], "ranks": ranks})

    def link(self, job: Job) -> None:
        """Reports how many bytes a second leave a rank while all send to all: the best of a few times."""
        ranks, best = dist.get_world_size(), 0.0
        x = torch.zeros(ranks, job.fields["bytes"] // ranks, dtype=torch.uint8, device=job.device)
        for _ in range(RATE_RUNS):
            begun = time.perf_counter()
            collectives.exchange(x, everybody())
            collectives.finish(job.device)
            best = max(best, x[1:].nbytes / (time.perf_counter() - begun))
        job.report({"bytes_per_second": best})


def everybody() -> collectives.Group:
    """The group of all ranks."""
    return cast(collectives.Group, dist.group.WORLD)
