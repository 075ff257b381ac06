"""Two hosts on one machine: network namespaces with a link between them, on each a worker that stays."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import torch

from livetalk_core.config import SECRET_VARIABLE
from livetalk_core.parallel.fleet import remote_fleet
from livetalk_core.streaming.fleet_engine import engine_setup

from .cases import HOST_FAULTS, Case
from .grounds import Undo, nothing, wait_until

NAMES = ("livetalk-0", "livetalk-1")
LINK, PORT = "lt0", 29700
ADDRESSES = ("10.213.77.1", "10.213.77.2")
DROP = """table inet lost {
 chain out {
  type filter hook output priority 0
  numgen random mod 10 0 drop
 }
}
"""
DROP_NO_MORE = "delete table inet lost"
INSIDE = "LIVETALK_BENCHMARK_HOST"
"""In the environment of the process that runs on the first host."""


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True)


def nft(rules: str) -> None:
    """Change the second host's rules for packets."""
    subprocess.run(["ip", "netns", "exec", NAMES[1], "nft", "-f", "-"], input=rules, text=True, check=True)


def on_host(host: int, words: Sequence[str]) -> list[str]:
    """The command that runs `words` on a host, under its name."""
    named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', NAMES[host])
    return ["ip", "netns", "exec", NAMES[host], *named, *words]


@contextmanager
def two_hosts() -> Iterator[None]:
    """The namespaces, for as long as the context lasts."""
    with ExitStack() as stack:
        for name in NAMES:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", LINK, "netns", NAMES[0], "type", "veth", "peer", "name", LINK, "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
            for link in ("lo", LINK):
                ip("-n", name, "link", "set", link, "up")
        yield


def in_two_hosts(arguments: Sequence[str]) -> int | None:
    """Run this program on the first of two hosts; its exit code. None where this process is on it already."""
    if INSIDE in os.environ:
        return None
    with two_hosts():
        command = on_host(0, [sys.executable, "-m", "benchmarks.faults", *arguments])
        inside = subprocess.Popen(command, env={**os.environ, INSIDE: "0"})
        try:
            return inside.wait()
        finally:
            inside.send_signal(signal.SIGINT)  # where this process is ended, that one ends its workers
            inside.wait()


class RemoteGround:
    """A fleet of a worker on each host, which stay; a context, which ends them. See `LocalGround`."""

    faults, ranks = HOST_FAULTS, 2

    def __init__(self) -> None:
        self._secret = secrets.token_hex(16)
        setup = engine_setup("nano", torch.float32)
        self.fleet = remote_fleet((ADDRESSES[0], PORT), self.ranks, self._secret.encode(), "engine", fields=setup)
        self._stays: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "RemoteGround":
        connect = f"{ADDRESSES[0]}:{PORT}"
        words = [sys.executable, "-m", "livetalk_core", "worker", "--connect", connect, "--device", "cpu", "--stay"]
        environment = {**os.environ, SECRET_VARIABLE: self._secret, "GLOO_SOCKET_IFNAME": LINK, "OMP_NUM_THREADS": "1"}
        for host in range(self.ranks):
            self._stays.append(subprocess.Popen(on_host(host, words), env=environment))
        return self

    def __exit__(self, *_: Any) -> None:
        self.fleet.close()
        for stay in self._stays:
            stay.send_signal(signal.SIGINT)
            stay.wait()

    def begin_load(self) -> None:
        """See `LocalGround.begin_load`."""
        self.fleet.close()

    def inject(self, case: Case) -> Undo:
        """See `LocalGround.inject`; while workers are awaited, the one to be killed is looked for on its host."""
        if case.fault == "cut":
            ip("-n", NAMES[1], "link", "set", LINK, "down")
            return lambda: ip("-n", NAMES[1], "link", "set", LINK, "up")
        if case.fault == "drop":
            nft(DROP)
            return lambda: nft(DROP_NO_MORE)
        os.kill(self._process(case.rank), signal.SIGKILL if case.fault == "kill" else signal.SIGSTOP)
        return nothing

    def _process(self, rank: int) -> int:
        if members := self.fleet.members:
            return members[rank].about["process"]
        stay = psutil.Process(self._stays[rank].pid)
        wait_until(lambda: bool(stay.children()))
        return stay.children()[0].pid

    def leftovers(self) -> dict[str, int]:
        """See `LocalGround.leftovers`."""
        me = psutil.Process()
        workers, threads = me.children(recursive=True), threading.active_count()
        return {"children": len(workers), "descriptors": me.num_fds(), "threads": threads}
