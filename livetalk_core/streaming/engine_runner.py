"""What a worker runs for `FleetEngine`: an engine on this rank's share of the models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ..checkpoints import nano
from ..checkpoints.folder import TRANSFORMER, find, find_vae
from ..checkpoints.load import open_model, transformer_part, vae_part
from ..config import Guidance, LTXVAEConfig, TransformerConfig, VAEConfig
from ..errors import InputError
from ..hardware.kernels import Call, Shape, choose_attention
from ..hardware.machine import available_memory, give_back_memory
from ..hardware.placement import Placement, layers_of, place, residence
from ..models import operations
from ..models.codec import build_vae
from ..models.color import match_color
from ..models.ltx_vae import LTXVAE
from ..models.transformer import Transformer
from ..models.vae import VAE
from ..parallel.collectives import Group
from ..parallel.frames import split_frames
from ..parallel.mesh import Mesh, default_ulysses, host_group
from ..parallel.patches import patch_weights, patches_of
from ..parallel.sequence import split_sequence
from ..parallel.vae import split_vae
from ..parallel.weights import place_weights, shard_weights, sharded_bytes, sharing_group, whole_bytes
from ..parallel.worker import Job
from ..presets import Preset
from .avatar import Avatar
from .engine import LocalEngine, OnStep
from .fleet_engine import AVATAR, Ways
from .kept_weights import weights_of
from .session import ChunkEnd
from .whole_chunks import session_of, state_tensors

PROBED = (Call(1, 8192, 8192), Call(1, 4096, 512), Call(9, 512, 32))
GPU_PIECES = 4
"""Of Ulysses' exchange, if no other number is asked for: a quarter of it is waited for. On CPUs one, since what moves
the bytes there are the same cores that attend."""
NO_VAE: Any = None
"""Until one is sent."""


class EngineRunner:
    """Answers each of the engine's verbs with reports."""

    _kept: ClassVar["tuple[Any, EngineRunner] | None"] = None
    """What tells the weights of this process's last set-up from others, and its runner."""

    def __init__(self, engine: LocalEngine, dtype: torch.dtype, mesh: Mesh) -> None:
        self.engine, self.dtype, self.mesh = engine, dtype, mesh
        self._avatar: Avatar | None = None
        self._negative: Tensor | None = None
        self._unpatch: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, setup: Job) -> "EngineRunner":
        """The runner of a set-up as `engine_setup` makes it."""
        fields, device, dtype = setup.fields, setup.device, dtype_of(setup)
        weights = weights_of(fields, device)
        runner = cls.splitting(cls._transformer(weights, setup), setup)
        cls._kept = None if weights is None else (weights, runner)
        if fields["own_vae"]:
            runner.engine.vae = split_vae(load_vae(fields["model"], dtype, device))
        return runner

    @classmethod
    def _transformer(cls, weights: Any, setup: Job) -> Transformer:
        """The transformer of a set-up: that of this process's last one where its weights are the same, or loaded."""
        kept, cls._kept = cls._kept, None
        if kept is not None and kept[0] == weights:
            kept[1]._unpatch()
            return kept[1].engine.transformer
        if kept is not None:
            del kept
            give_back_memory()
        model, patch = (setup.fields[name] for name in ("model", "patch"))
        ways, streamed = Ways(*setup.fields["ways"]), list[int]()
        if ways.memory is not None:
            opened = open_model(model, "cpu", None, None if patch is None else Path(patch))
            streamed = streamed_blocks(setup, opened.preset)
        host = host_of(setup) if setup.fields["sharded"] else None
        return load_transformer(model, dtype_of(setup), setup.device, host, patch, ways.fp8, streamed)

    @classmethod
    def splitting(cls, transformer: Transformer, setup: Job) -> "EngineRunner":
        """The runner that computes this rank's share of a transformer, as the set-up says; without a VAE."""
        fields, device, dtype = setup.fields, setup.device, dtype_of(setup)
        ways = Ways(*fields["ways"])
        with setup.meeting():
            mesh = Mesh.of(transformer.config.num_heads, ulysses_of(transformer.config.num_heads, setup), device)
        pieces = ways.pieces or (1 if device.type == "cpu" else GPU_PIECES)
        split = split_sequence(transformer, mesh, fields["send_fp8"], pieces)
        attention = choose_attention(ways.attention, shape_of(transformer.config, mesh, device, dtype))
        return cls(LocalEngine(split, NO_VAE, device, attention=attention, compiled=ways.compiled), dtype, mesh)

    def take_vae(self, job: Job) -> None:
        """Use the VAE whose weights are sent."""
        widths: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in job.fields["widths"].items()
        }
        config = LTXVAEConfig(**widths) if job.fields["ltx"] else VAEConfig(**widths)
        vae = build_vae(config, operations, "meta", self.dtype)
        weights = {name: tensor.to(job.device, self.dtype) for name, tensor in job.tensors.items()}
        vae.load_state_dict(weights, assign=True)
        self.engine.vae = split_vae(vae.eval().requires_grad_(False))

    def patch(self, job: Job) -> None:
        """Change the transformer's weights as is sent now, and no longer as was sent before."""
        self._unpatch()
        self._unpatch = lambda: None
        transformer = self.engine.transformer
        # Anew: what it keeps of an avatar was computed with the weights of before.
        before = self.engine
        self.engine = LocalEngine(
            transformer, before.vae, before.device, attention=before.attention, compiled=before.compiled
        )
        self._unpatch = patch_weights(transformer, patches_of(job.fields, job.tensors), job.device, self.dtype)

    def denoise(self, job: Job) -> None:
        """Reports each step done, then the latent."""
        engine, avatar = self._ready(job)
        audio, motion, noise = (job.tensors[name] for name in ("audio", "motion", "noise"))
        noise = noise.expand(job.fields["steps"], *noise.shape[1:])  # one alone where all steps have the same
        latent = engine.denoise(avatar, audio, motion, noise, lambda step: job.report({"step": step}))
        job.report(tensors={"latent": latent})

    def decode(self, job: Job) -> None:
        """Reports frames as they are decoded."""
        for frames in Announced(self.engine, job).decode(job.tensors["latent"]):
            job.report(tensors={"frames": frames})

    def encode(self, job: Job) -> None:
        """Reports the latent."""
        latent = Announced(self.engine, job).encode(job.tensors["frames"], job.tensors.get("noise"))
        job.report(tensors={"latent": latent})

    def chunk(self, job: Job) -> None:
        """Reports each step done, a chunk's frames as pixels [n,H,W,3] and which is their first, then the state."""
        engine, avatar = self._ready(job)
        # On a GPU colours take less time than sending frames.
        match = split_frames(match_color, self.mesh.group) if job.device.type == "cpu" else match_color
        session, state = session_of(
            engine, avatar, job.fields, job.tensors, lambda step: job.report({"step": step}), match
        )
        with closing(session.run(state)) as events:
            for event in events:
                if isinstance(event, ChunkEnd):
                    job.report(tensors=state_tensors(event.state))
                    return
                job.report({"first": event.first}, {"pixels": event.pixels} if job.is_heard else {})

    def _ready(self, job: Job) -> tuple["Announced", Avatar]:
        """The engine as the job's fields have it sample, and the avatar, which is sent when it is another one."""
        news = named(job.tensors, AVATAR)
        self._avatar = Avatar(**cast(Any, news)) if news else self._avatar
        assert self._avatar is not None, "it comes with the first chunk"
        guidance = job.fields["guidance"]
        self.engine.shift = job.fields["shift"]
        self.engine.guidance = None if guidance is None else Guidance(**guidance)
        self.engine.bridge = job.fields["bridge"]
        self.engine.negative = self._negative = same(job.tensors.get("negative"), self._negative)
        return Announced(self.engine, job), self._avatar


class Announced:
    """See `Engine`: a rank's, which says before each piece of work how much it is."""

    def __init__(self, engine: LocalEngine, job: Job) -> None:
        self.engine, self._job = engine, job

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        operations = step_operations(self.engine.transformer.config, noise.shape[2:], self.engine.guidance)
        self._job.expect("denoise", operations)
        return self.engine.denoise(avatar, audio, motion, noise, on_step)

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        self._job.expect("decode", latent[0, 0].numel())
        return self.engine.decode(latent)

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Engine.encode`."""
        self._job.expect("encode", frames.numel())
        return self.engine.encode(frames, noise)


def dtype_of(setup: Job) -> torch.dtype:
    """Of the weights."""
    return getattr(torch, setup.fields["dtype"])


def hosts_of(setup: Job) -> list[str]:
    """Each rank's host."""
    return [host for host, _ in setup.fields["crew"]]


def host_of(setup: Job) -> Group:
    """The ranks of this rank's host."""
    with setup.meeting():
        return host_group(hosts_of(setup), setup.device)


def ulysses_of(heads: int, setup: Job) -> int:
    """The Ulysses degree of the mesh that was asked for, or what suits the hosts, one for each rank."""
    mesh, hosts = Ways(*setup.fields["ways"]).mesh, hosts_of(setup)
    if mesh is None:
        return default_ulysses(heads, hosts)
    ulysses, ring = mesh
    if ulysses * ring != len(hosts):
        raise InputError(f"mesh ulysses={ulysses},ring={ring} on {len(hosts)} devices; needs a product of {len(hosts)}")
    return ulysses


def streamed_blocks(setup: Job, preset: Preset) -> list[int]:
    """The blocks that come from main memory on this rank, so that it keeps to the set-up's `memory`."""
    ways, size, ranks = Ways(*setup.fields["ways"]), setup.fields["size"], len(setup.fields["crew"])
    sized = preset if size is None else preset.sized((size[0], size[1]))
    memory = ways.memory
    if memory is not None and setup.device.type != "cpu":
        memory = min(memory, available_memory(setup.device))
    ulysses = ulysses_of(preset.transformer.num_heads, setup)
    return residence(sized, dtype_of(setup), Placement(ways.fp8, memory), (ulysses, ranks // ulysses)).streamed


def shape_of(config: TransformerConfig, mesh: Mesh, device: torch.device, dtype: torch.dtype) -> Shape:
    """What a rank's attention is probed with: its heads, and calls of a chunk's kind, whose size is not known yet."""
    return Shape(device, dtype, config.num_heads // mesh.ulysses, config.head_dim, PROBED)


def step_operations(config: TransformerConfig, latent: Sequence[int], guidance: Guidance | None) -> float:
    """About how many operations a step on a latent of so many frames, rows and columns is, for all ranks together."""
    tokens = prod(latent) / config.geometry.patch**2
    products = 2 * tokens * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    evaluations = 1 if guidance is None else 1 + (guidance.text != 1) + (guidance.audio != 1)
    return evaluations * config.num_layers * (products + 4 * tokens**2 * config.dim)


def same(new: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """`new`, or the kept tensor where it has the same values: what an engine made of it then still holds."""
    return kept if new is not None and kept is not None and torch.equal(new, kept) else new


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, which is cut off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_transformer(
    model: str,
    dtype: torch.dtype,
    device: torch.device,
    host: Group | None = None,
    patch: str | None = None,
    fp8: bool = False,
    streamed: Sequence[int] = (),
) -> Transformer:
    """The transformer on this rank's device, whole or, given the ranks of its host, this rank's share of its weights.

    Weights are mapped from the file: all processes of a host read the one copy in its memory. Those of another dtype
    than `dtype` are converted on their way to the device, one by one, of a share no more than that. With `fp8`, the
    blocks are quantised there, block by block. Blocks of `streamed` stay in main memory, of `dtype`.
    """
    layers = layers_of(Placement(fp8), device)
    if model == nano.NAME:
        transformer = nano.transformer("cpu", dtype, layers)
    else:
        path = Path(model)
        file, added = find(path, TRANSFORMER) if path.is_dir() else path, None if patch is None else Path(patch)
        transformer = transformer_part(file, layers, added).load("cpu", dtype if fp8 or streamed else None)
    if fp8 or streamed:
        return place(transformer, device, fp8, streamed)
    everyone = cast(Group, dist.group.WORLD)
    group = None if host is None else sharing_group(transformer, device, host, everyone, dtype)
    _check_fit(transformer, device, group.size() if group else 1, dtype)
    if group is None:
        place_weights(transformer, device, dtype)
    else:
        shard_weights(transformer, device, group, dtype)
    return transformer


def _check_fit(transformer: Transformer, device: torch.device, ranks: int, dtype: torch.dtype) -> None:
    """Raise `InputError` where a device cannot hold its share of the weights, over `ranks` of them if more than one."""
    if device.type == "cpu":
        return  # mapped weights are no one's memory
    needed = sum(sharded_bytes(transformer, ranks, dtype)) if ranks > 1 else whole_bytes(transformer, dtype)
    if needed > (free := available_memory(device)):
        advice = "free memory, or leave this device out"
        if ranks == 1:
            advice = "shard the weights, or stream some (--memory), or leave it out"
        raise InputError(
            f"{device} has {free / 2**30:.1f} GiB free; its weights need {needed / 2**30:.1f} GiB: {advice}"
        )


def load_vae(model: str, dtype: torch.dtype, device: torch.device) -> VAE | LTXVAE:
    """The model's own VAE."""
    if model == nano.NAME:
        return nano.vae(device, dtype)
    return vae_part(find_vae(Path(model))).load(device, dtype)
