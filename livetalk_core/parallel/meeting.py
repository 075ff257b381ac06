"""Where the workers of one start find each other: a store of torch.distributed that the controller opens for them.

Each start has a store of its own: one that outlives its workers, as torchrun's does, would give the next ones the
addresses of the dead.
"""

import errno
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist

from .collectives import Group, exchange, finish

if TYPE_CHECKING:
    from .reception import Member

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""Beyond every limit of the controller's, who can tell a wedged rank from one that waits for it."""
MEETING_SECONDS = 60


class Meeting:
    """The controller's side: a store that listens at `host`, at `port` if that is free, until `close`."""

    def __init__(self, host: str, port: int = 0) -> None:
        with _listen(host, port) as server:
            self.port: int = server.getsockname()[1]
            listens = server.detach()
        try:
            self._store: dist.TCPStore | None = dist.TCPStore(
                host, self.port, None, True, timedelta(seconds=MEETING_SECONDS), False, master_listen_fd=listens
            )
        except dist.DistError:
            full = _no_file_can_be_opened()
            _close_listener(listens, self.port)
            if full:  # torch says no more than that its loop cannot begin
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
            raise

    def close(self) -> None:
        """Close the port and what is connected to it."""
        self._store = None


def _close_listener(number: int, port: int) -> None:
    """Close a listening socket that a store has not taken; one that it has closed may be another file by now."""
    with suppress(OSError):
        left = socket.socket(fileno=number)
        if left.getsockname()[1] == port:
            left.close()
        else:
            left.detach()


def _no_file_can_be_opened() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno == errno.EMFILE
    return False


def open_port(host: str, port: int) -> socket.socket:
    """A socket that listens at a port, of any that is free for 0; `host` may be an IPv6 address."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return open_port(host, port)
    except OSError as error:
        server = open_port(host, 0)
        logging.warning("port %d is not free (%s): workers meet at %d", port, error.strerror, server.getsockname()[1])
        return server


def join(host: str, port: int, rank: int, ranks: int, device: torch.device) -> None:
    """A worker's side: make the process group of all workers, by the store that the controller has opened."""
    store = dist.TCPStore(host, port, None, False, timedelta(seconds=MEETING_SECONDS), False)
    # NCCL's communicators are made when first used (no `device_id`): on the device that `serve` has chosen.
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    dist.init_process_group(backend, store=store, timeout=COLLECTIVE_TIMEOUT, rank=rank, world_size=ranks)
    try_out(cast(Group, dist.group.WORLD), device)


def try_out(group: Group, device: torch.device) -> None:
    """Exchange a number in a new group, so that a link that does not work is found before the work begins."""
    for place in {torch.device("cpu"), device}:  # by gloo, and by NCCL where there are GPUs
        exchange(torch.zeros(group.size(), 1, device=place), group)
        finish(place)


def unreachable(members: "Sequence[Member]") -> str:
    """What may be wrong where connected workers do not reach each other, and what to do."""
    if len({member.about["host"] for member in members}) == 1:
        if members[0].about["device"] == "cpu":
            return "is the loopback interface up?"
        return (
            "data does not pass between these GPUs; with NCCL_P2P_DISABLE=1 in the environment it goes through main "
            "memory, and NCCL_DEBUG=INFO has NCCL say more"
        )
    networks = [member.about.get("networks") or "the first network that is found" for member in members]
    hosts = ", ".join(f"{member.about['host']} by {network}" for member, network in zip(members, networks, strict=True))
    return (
        f"{hosts}; ranks connect to each other at any port of those that systems give out (net.ipv4.ip_local_port_range"
        "): open them between the hosts, or name another network in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    )
