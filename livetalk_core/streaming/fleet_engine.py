"""The engine that runs on a fleet of workers: the same three verbs, each one a job."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints import nano
from ..config import Guidance, LTXVAEConfig, VAEConfig
from ..errors import InputError
from ..parallel.fleet import Fleet
from ..parallel.patches import Patch, patches_message
from ..sampling.chunk import advance_of, read_noise
from .avatar import Avatar
from .engine import OnStep
from .session import Frames, Order
from .state import StreamState
from .whole_chunks import order_message, state_of

AVATAR = "avatar."
"""What the names begin with under which an avatar's tensors are sent."""


class Ways(NamedTuple):
    """How workers compute. `attention` names a kernel, which each probes on its device; a ring has its own.

    `mesh` is (ulysses, ring), None what suits the hosts. `compiled` and `fp8` are as on one device, for whole weights.
    Ulysses exchanges heads in so many `pieces`, each while another one is attended; None: what suits the device.
    `memory` is the most bytes on each device, for whole weights: blocks beyond it are streamed from main memory.
    """

    attention: str = "sdpa"
    compiled: bool = False
    fp8: bool = False
    mesh: tuple[int, int] | None = None
    pieces: int | None = None
    memory: int | None = None

    def check(self, sharded: bool) -> None:
        """Raise `InputError` for what does not go together."""
        if sharded and (self.compiled or self.fp8):
            raise InputError("--compile and --fp8 are for whole weights; leave them out, or --shard-weights")
        if sharded and self.memory is not None:
            raise InputError("--memory streams whole weights, which --shard-weights splits: leave one out")


PLAIN = Ways()


def engine_setup(
    model: str,
    dtype: torch.dtype,
    sharded: bool = False,
    own_vae: bool = True,
    patch: str | Path | None = None,
    send_fp8: bool = False,
    ways: Ways = PLAIN,
) -> dict[str, Any]:
    """The set-up's fields of a fleet that runs an engine on a model: the embedded one's name, or a path of weights.

    A path is not followed through links: they may lead to a file of another name, in a folder without the other parts.
    Without `own_vae` the engine brings another. `patch` is a file of audio layers for a model that has none. With
    `send_fp8` ranks exchange FP8: fewer bytes, other numbers.
    """
    ways.check(sharded)
    path = model if model == nano.NAME else str(Path(model).absolute())
    added = None if patch is None else str(Path(patch).absolute())
    choices = {"patch": added, "sharded": sharded, "own_vae": own_vae, "send_fp8": send_fp8, "ways": list(ways)}
    choices["size"] = None
    return {"model": path, "dtype": str(dtype).removeprefix("torch."), **choices}


class OtherVAE(NamedTuple):
    """A VAE that is not the model's own: what tells it from others, its widths, its weights by published keys."""

    key: Any
    config: VAEConfig | LTXVAEConfig
    weights: Callable[[], Mapping[str, Tensor]]


class Patches(NamedTuple):
    """Changes of the transformer's weights, and what tells them from others; `NO_PATCHES` leaves it as it is."""

    key: Any
    patches: Sequence[Patch]


NO_PATCHES = Patches(None, ())


class FleetEngine:
    """See `Engine`. The fleet's runner is an `EngineRunner`; what stays the same is sent once, not for every chunk.

    Each verb starts the workers first, and never in its middle: new ones would lack what the old ones were given.
    """

    def __init__(
        self,
        fleet: Fleet,
        shift: float = 5.0,
        vae: OtherVAE | None = None,
        patches: Patches = NO_PATCHES,
        guidance: Guidance | None = None,
        negative: Tensor | None = None,
        bridge: bool = False,
    ) -> None:
        self.fleet, self.shift, self.vae, self.patches = fleet, shift, vae, patches
        self.guidance, self.negative, self.bridge = guidance, negative, bridge

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        self.fleet.start()
        self._give("patch", self.patches.key, lambda: patches_message(self.patches.patches))
        read = read_noise(noise, advance_of(self.guidance is not None, self.bridge))
        fields = {**self._sampling(), "steps": len(noise)}
        tensors = {"audio": audio, "motion": motion, "noise": read, **self._news(avatar)}
        latent: Tensor | None = None
        with closing(self.fleet.run_on("denoise", fields, tensors)) as messages:
            for message in messages:
                latent = message.tensors.get("latent")
                if latent is None:
                    on_step(message.fields["step"])
        assert latent is not None, "it is the last report"
        return latent

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        self._start_with_vae()
        with closing(self.fleet.run_on("decode", tensors={"latent": latent})) as messages:
            for message in messages:
                yield message.tensors["frames"]

    def encode(self, frames: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Engine.encode`."""
        self._start_with_vae()
        tensors = {"frames": frames} if noise is None else {"frames": frames, "noise": noise}
        (message,) = self.fleet.run_on("encode", tensors=tensors)
        return message.tensors["latent"]

    def chunk(self, order: Order, on_step: OnStep) -> Generator[Frames, None, StreamState]:
        """See `session.ChunkEngine`."""
        self._start_with_vae()
        self._give("patch", self.patches.key, lambda: patches_message(self.patches.patches))
        (fields, tensors), chunk = order_message(order), order.plan.chunk(order.state.next_chunk)
        state: StreamState | None = None
        news = self._news(order.avatar)
        with closing(self.fleet.run_on("chunk", {**fields, **self._sampling()}, {**tensors, **news})) as messages:
            for message in messages:
                if "step" in message.fields:
                    on_step(message.fields["step"])
                elif "first" in message.fields:
                    yield Frames(chunk, message.fields["first"], message.tensors["pixels"].movedim(-1, 0))
                else:
                    state = state_of(chunk.index + 1, order.state.seed, message.tensors)
        assert state is not None, "it is the last report"
        return state

    def _sampling(self) -> dict[str, Any]:
        """The fields that say how to sample."""
        guidance = None if self.guidance is None else asdict(self.guidance)
        return {"shift": self.shift, "guidance": guidance, "bridge": self.bridge}

    def _news(self, avatar: Avatar) -> dict[str, Tensor]:
        """The avatar's tensors, unless the workers that are running have them; and those of the negative prompt."""
        parts = {f"{AVATAR}{field.name}": getattr(avatar, field.name) for field in fields(avatar)}
        tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
        sent: dict[str, Tensor] = self.fleet.sent.get(AVATAR, {})
        self.fleet.sent[AVATAR] = tensors
        same = sent.keys() == tensors.keys() and all(sent[name] is tensor for name, tensor in tensors.items())
        negative = {} if self.negative is None else {"negative": self.negative}
        return negative if same else {**tensors, **negative}

    def _start_with_vae(self) -> None:
        self.fleet.start()
        if (vae := self.vae) is not None:
            fields = {"ltx": isinstance(vae.config, LTXVAEConfig), "widths": asdict(vae.config)}
            self._give("take_vae", vae.key, lambda: (fields, vae.weights()))

    def _give(self, verb: str, key: Any, message: Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> None:
        """Have the workers that are running take something, unless it is what they took last."""
        if self.fleet.sent.get(verb) == key:
            return
        self.fleet.sent[verb] = object()  # a send that is broken off leaves them with no one knows what
        for _ in self.fleet.run_on(verb, *message()):
            pass
        self.fleet.sent[verb] = key
