"""Processes that form a gloo group and run checks for the tests; each group is started once, when first asked for."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120


class RankPool:
    """`count` processes of one thread each, forked from a server that has imported torch once."""

    def __init__(self, count: int) -> None:
        self.count, self._folder = count, tempfile.TemporaryDirectory()
        os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed", "einops"])
        pipes = [context.Pipe() for _ in range(count)]
        store = str(Path(self._folder.name) / "store")
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, count, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def run(self, check: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `check(*arguments)` returns on each process."""
        for pipe in self._pipes:
            pipe.send((check, arguments))
        results = [pipe.recv() if pipe.poll(SECONDS) else (False, "no answer") for pipe in self._pipes]
        errors = [text for ok, text in results if not ok]
        assert not errors, errors[0]
        return [value for _, value in results]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, count: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, count), rank=rank, world_size=count, timeout=timedelta(seconds=SECONDS)
    )
    while True:
        check, arguments = pipe.recv()
        try:
            pipe.send((True, check(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
