"""Several devices for one MODEL: worker processes in the place of ComfyUI's own.

The node marks a MODEL with the devices; the nodes that run it ask `engine_for`. One fleet is kept, warm from prompt
to prompt; it ends when another is needed, when ComfyUI needs its memory or unloads all models, and when it lets the
MODEL go.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..livetalk_core.checkpoints import nano
from ..livetalk_core.config import StreamConfig
from ..livetalk_core.errors import InputError
from ..livetalk_core.hardware.amount import parse_memory
from ..livetalk_core.hardware.machine import default_dtype
from ..livetalk_core.parallel.devices import parse_devices, parse_hosts, parse_mesh
from ..livetalk_core.parallel.fleet import Fleet, local_fleet, remote_fleet
from ..livetalk_core.parallel.worker import read_secret
from ..livetalk_core.streaming.engine import Engine
from ..livetalk_core.streaming.fleet_engine import FleetEngine, OtherVAE, Patches, Ways, engine_setup
from . import host
from .given import checked
from .guidance import guided_by, made_for
from .loaders import whole_model

KEY = "livetalk_devices"


@dataclass(frozen=True)
class Spread:
    """What workers load, and on which devices."""

    source: str
    patch: str | None
    devices: tuple[str, ...]
    """Of this machine; none where workers of other hosts are waited for."""
    shard_weights: bool
    send_fp8: bool = False
    mesh: tuple[int, int] | None = None
    hosts: tuple[tuple[str, int], int] | None = None
    """Where workers are waited for, and how many."""
    memory: int | None = None
    """Most bytes on each device: blocks beyond it are streamed from main memory."""
    size: tuple[int, int] | None = None
    """Height and width of the talk, where `memory` is to suffice for it."""

    def __str__(self) -> str:
        where = ", ".join(self.devices) if self.hosts is None else f"{self.ranks} workers"
        return where + ", which send FP8" * self.send_fp8

    @property
    def ranks(self) -> int:
        """How many workers there are."""
        return len(self.devices) if self.hosts is None else self.hosts[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights on the workers: what all of their devices attend in. Those of other hosts are not known."""
        own = {default_dtype(torch.device(device)) for device in self.devices} or {torch.bfloat16}
        return own.pop() if len(own) == 1 else torch.float16

    def sized(self, stream: StreamConfig) -> "Spread":
        """For talks of the stream's size: how many blocks `memory` has room for depends on it."""
        return self if self.memory is None else replace(self, size=(stream.height, stream.width))

    def bytes_of(self, model_size: int) -> int:
        """What each worker holds of a model of so many bytes."""
        share = model_size // (self.ranks if self.shard_weights else 1)
        return share if self.memory is None else min(share, self.memory)

    def fleet(self) -> Fleet:
        """The workers, to be started with their first job; the model's VAE is sent to them."""
        ways = Ways(mesh=self.mesh, memory=self.memory)
        setup = engine_setup(
            self.source, self.dtype, self.shard_weights, False, self.patch, send_fp8=self.send_fp8, ways=ways
        ) | {"size": self.size}
        if self.hosts is None:
            return local_fleet(self.devices, "engine", fields=setup)
        address, ranks = self.hosts
        return remote_fleet(address, ranks, read_secret(None), "engine", fields=setup)


@dataclass
class Running:
    """The fleet that is kept."""

    spread: Spread | None = None
    fleet: Fleet | None = None
    leases: list[host.Lease] = field(default_factory=list)
    """ComfyUI's view of the memory on each device."""

    def of(self, spread: Spread, model: Any) -> Fleet:
        """The fleet of `spread`, which is to run `model`; another one is ended first."""
        if self.fleet is None or self.spread != spread:
            self.end()
            self.spread, self.fleet = spread, spread.fleet()
            size = spread.bytes_of(model.model_size())
            self.leases = [
                host.Lease(device, size, self.is_running, self.rest) for device in dict.fromkeys(spread.devices)
            ]
            weakref.finalize(model.model, self.end, spread)
        host.claim(self.leases)
        self.fleet.poll = host.check_cancelled
        return self.fleet

    def is_running(self) -> bool:
        """Whether workers hold memory."""
        return self.fleet is not None and bool(self.fleet.members)

    def rest(self) -> None:
        """End the workers unless they are in the middle of a job; the next job starts new ones."""
        if self.fleet is not None and not self.fleet.busy:
            self.fleet.close()

    def end(self, spread: Spread | None = None) -> None:
        """End the fleet, or only that of `spread`."""
        if self.fleet is not None and spread in (None, self.spread):
            self.fleet.close()
            self.fleet, self.leases = None, []


RUNNING = Running()


class Devices(io.ComfyNode):
    """The same MODEL, to be run on several devices."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows."""
        return io.Schema(
            node_id="LiveTalkDevices",
            display_name="LiveTalk Devices",
            category="LiveTalk",
            description="Runs a LiveTalk model on several GPUs at once, each with a worker process (Linux, WSL). The "
            "video is the same, sooner. LiveTalk Render also decodes there.",
            search_aliases=["multi gpu", "multigpu", "parallel", "cuda:1"],
            inputs=[
                io.Model.Input("model", tooltip="From LiveTalk Load Model or LiveTalk Embedded Model, with any LoRAs."),
                io.String.Input(
                    "devices",
                    default="auto",
                    tooltip="auto: all GPUs of this machine. Or name them: cuda:0,cuda:1. cpu x2 is for trying out.",
                ),
                io.Boolean.Input(
                    "shard_weights",
                    default=False,
                    tooltip="Each GPU keeps only its part of the weights: for cards that are too small alone.",
                ),
                io.Boolean.Input(
                    "send_fp8",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Workers send each other FP8, half the bytes, for a few percent of error: for GPUs without "
                    "NVLink.",
                ),
                io.String.Input(
                    "mesh",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="How devices split attention: ulysses=2,ring=2, whose product is their number. Empty: what "
                    "suits them.",
                ),
                io.String.Input(
                    "hosts",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Instead of devices: where to wait for how many workers of other hosts, such as "
                    "192.168.1.5:29700 x4. The secret is LIVETALK_SECRET in this server's environment.",
                ),
                io.String.Input(
                    "memory",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Most to hold on each GPU, such as 14G: what is beyond it stays in main memory and comes "
                    "layer by layer. Empty: all of the weights. Not with shard_weights.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For LiveTalk Render or Sample Chunk.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        devices: str,
        shard_weights: bool,
        send_fp8: bool = False,
        mesh: str = "",
        hosts: str = "",
        memory: str = "",
    ) -> io.NodeOutput:
        """A copy of the MODEL that says where to run it; workers start when it is run."""
        host.require_livetalk(model)
        _, origin = model.cached_patcher_init
        if origin and origin[2]:
            raise InputError(
                "this model is quantised as it is loaded (weight_dtype fp8_e4m3fn), which workers do not do; they take "
                "a file that is: set weight_dtype to default, or make one with python -m livetalk_core convert --fp8"
            )
        source = str(whole_model(Path(origin[0]))) if origin else nano.NAME
        patch = origin[1] or None if origin else None
        marked = model.clone()
        awaited = parse_hosts(hosts)
        if awaited is not None:
            read_secret(None)  # refused here where there is none
        here = () if awaited is not None else tuple(parse_devices(devices))
        most = memory_of(memory, shard_weights)
        spread = Spread(source, patch, here, shard_weights, send_fp8, parse_mesh(mesh.strip() or None), awaited, most)
        marked.set_attachments(KEY, spread)
        return io.NodeOutput(marked)


def memory_of(text: str, shard_weights: bool) -> int | None:
    """The most bytes on each device; None without a text."""
    if not text.strip():
        return None
    if shard_weights:
        raise InputError("memory streams whole weights, which shard_weights splits: empty memory, or turn that off")
    return parse_memory(text)


def engine_for(model: Any, stream: StreamConfig, vae: Any = None, **options: Any) -> Engine:
    """The engine of a MODEL: workers on its devices where LiveTalk Devices has set some, else ComfyUI's own process.

    `stream` says how large the talk is; `options` are what `host.HostEngine` takes besides.
    """
    spread, guided = model.get_attachment(KEY), guided_by(model)
    ways: dict[str, Any] = {"bridge": made_for(model).bridge}
    if guided is not None:
        ways |= {"guidance": guided.guidance, "negative": guided.negative}
    if spread is None:
        return host.HostEngine(model, vae, **options, **ways)
    patches = Patches(model.patches_uuid if model.patches else None, host.plain_patches(model))
    other = None if vae is None else OtherVAE(weakref.ref(vae.first_stage_model), *_described(vae))
    shift = host.shift_of(model)
    return FleetEngine(RUNNING.of(spread.sized(stream), model), shift, other, patches, **ways)


def _described(vae: Any) -> tuple[Any, Callable[[], Mapping[str, Tensor]]]:
    """A VAE's widths, and what gives its weights under the published keys."""
    return host.vae_config(vae), lambda: host.vae_weights(vae)


def devices_of(model: Any) -> str:
    """The devices that a MODEL was given, as a resumed render names them; empty without."""
    spread = model.get_attachment(KEY)
    return "" if spread is None else str(spread)
