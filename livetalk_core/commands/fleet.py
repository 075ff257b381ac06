"""The options by which a command is given several devices, and the fleet that they ask for."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import SECRET_VARIABLE
from ..errors import InputError
from .options import positive

if TYPE_CHECKING:  # these take seconds to import: `--help` does without
    import torch

    from ..parallel.fleet import Fleet
    from ..streaming.fleet_engine import Ways


def fleet_options(command: argparse.ArgumentParser, listen: str = "--listen") -> None:
    """Add the options; `listen` is what the one that waits for workers is called."""
    command.add_argument(
        "--devices", help="several, for transformer and VAE: auto, cuda:0,cuda:1, cpu x2 (--device keeps the encoders)"
    )
    command.add_argument(listen, dest="listen", metavar="ADDRESS:PORT", help="wait there for workers of other hosts")
    command.add_argument("--ranks", type=int, help=f"with {listen}: how many workers will connect")
    command.add_argument("--secret-file", help=f"with {listen}: the secret, else from {SECRET_VARIABLE}")
    command.add_argument("--shard-weights", action="store_true", help="each worker keeps a part of the weights")
    command.add_argument(
        "--mesh", metavar="ulysses=U,ring=R",
        help="how devices split attention (default: most Ulysses inside a host, a ring between hosts)",
    )  # fmt: skip
    command.add_argument(
        "--send-fp8",
        action="store_true",
        help="workers send each other FP8, half the bytes: for GPUs without NVLink; costs exactness",
    )
    command.add_argument(
        "--overlap", type=positive, metavar="PIECES",
        help="Ulysses exchanges heads in so many pieces, each while another is attended (default: 4 on GPUs, 1 on "
        "CPUs)",
    )  # fmt: skip


def fleet_of(options: argparse.Namespace, dtype: "torch.dtype") -> "Fleet | None":
    """The workers that the options ask for, if any."""
    from ..streaming.fleet_engine import engine_setup

    ways = ways_of(options)
    setup = engine_setup(
        options.model, dtype, options.shard_weights, patch=options.patch, send_fp8=options.send_fp8, ways=ways
    )
    fleet = workers_of(options, setup)
    if fleet is not None and options.send_fp8:
        fleet.name += ", which send FP8"
    return fleet


def ways_of(options: argparse.Namespace) -> "Ways":
    """How the options have workers compute."""
    from ..parallel.devices import parse_mesh
    from ..streaming.fleet_engine import Ways

    mesh = parse_mesh(options.mesh)
    return Ways(options.attention, options.compile, options.fp8, mesh, options.overlap, options.memory)


def workers_of(options: argparse.Namespace, setup: Mapping[str, Any], runner: str = "engine") -> "Fleet | None":
    """Workers that run `runner` as set up, where the options ask for any."""
    from ..parallel.devices import address, parse_devices
    from ..parallel.fleet import local_fleet, remote_fleet
    from ..parallel.worker import read_secret

    _check_together(options)
    if options.listen is not None:
        if not options.ranks or options.ranks < 1 or options.devices:
            raise InputError("--listen needs --ranks, how many workers will connect, and no --devices")
        secret = read_secret(options.secret_file)
        return remote_fleet(address(options.listen), options.ranks, secret, runner, fields=setup)
    if options.devices is not None:
        return local_fleet(parse_devices(options.devices), runner, fields=setup)
    return None


def _check_together(options: argparse.Namespace) -> None:
    """Raise `InputError` for what tells workers something where there are none to be told."""
    if options.listen is not None:
        return
    of_hosts = [name for name in ("ranks", "secret_file") if getattr(options, name) is not None]
    if of_hosts:
        raise InputError(f"{_option(of_hosts[0])} is for workers of other hosts: leave it out, or say where to listen")
    of_several = [name for name in ("shard_weights", "send_fp8", "mesh", "overlap") if getattr(options, name)]
    if of_several and options.devices is None:
        raise InputError(f"{_option(of_several[0])} is for several devices: leave it out, or name them with --devices")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
