"""The engine that runs on a fleet of workers: the same three verbs, each one a job."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoints import nano
from ..config import Guidance
from ..parallel.fleet import Fleet
from .avatar import Avatar
from .engine import OnStep

AVATAR = "avatar."
"""What the names begin with under which an avatar's tensors are sent."""


def engine_setup(
    model: str, dtype: torch.dtype, sharded: bool = False, own_vae: bool = True, patch: str | Path | None = None
) -> dict[str, Any]:
    """The set-up's fields of a fleet that runs an engine on a model: the embedded one's name, or a path of weights.

    Without `own_vae` the engine brings another. `patch` is a file of audio layers for a model that has none.
    """
    path = model if model == nano.NAME else str(Path(model).resolve())
    added = None if patch is None else str(Path(patch).resolve())
    kind = str(dtype).removeprefix("torch.")
    return {"model": path, "patch": added, "dtype": kind, "sharded": sharded, "own_vae": own_vae}


class OtherVAE(NamedTuple):
    """A VAE that is not the model's own: its weights under the published keys, and what tells it from others."""

    key: Any
    weights: Callable[[], Mapping[str, Tensor]]


class FleetEngine:
    """See `Engine`. The fleet's runner is an `EngineRunner`; an avatar is sent once, not for every chunk."""

    def __init__(
        self,
        fleet: Fleet,
        shift: float = 5.0,
        vae: OtherVAE | None = None,
        guidance: Guidance | None = None,
        negative: Tensor | None = None,
    ) -> None:
        self.fleet, self.shift, self.vae = fleet, shift, vae
        self.guidance, self.negative = guidance, negative

    def denoise(self, avatar: Avatar, audio: Tensor, motion: Tensor, noise: Tensor, on_step: OnStep) -> Tensor:
        """See `Engine.denoise`."""
        guidance = None if self.guidance is None else asdict(self.guidance)
        fields = {"shift": self.shift, "steps": len(noise), "guidance": guidance}
        start = noise if guidance is None else noise[:1]
        tensors = {"audio": audio, "motion": motion, "noise": start, **self._news(avatar)}
        if self.negative is not None:
            tensors["negative"] = self.negative
        latent: Tensor | None = None
        with closing(self.fleet.run("denoise", fields, tensors)) as messages:
            for message in messages:
                latent = message.tensors.get("latent")
                if latent is None:
                    on_step(message.fields["step"])
        assert latent is not None, "it is the last report"
        return latent

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """See `Engine.decode`."""
        self._send_vae()
        with closing(self.fleet.run("decode", tensors={"latent": latent})) as messages:
            for message in messages:
                yield message.tensors["frames"]

    def encode(self, frames: Tensor) -> Tensor:
        """See `Engine.encode`."""
        self._send_vae()
        (message,) = self.fleet.run("encode", tensors={"frames": frames})
        return message.tensors["latent"]

    def _news(self, avatar: Avatar) -> dict[str, Tensor]:
        """The avatar's tensors, unless the workers that are running have them."""
        self.fleet.start()
        parts = {f"{AVATAR}{field.name}": getattr(avatar, field.name) for field in fields(avatar)}
        tensors = {name: tensor for name, tensor in parts.items() if tensor is not None}
        sent: dict[str, Tensor] = self.fleet.sent.get(AVATAR, {})
        self.fleet.sent[AVATAR] = tensors
        same = sent.keys() == tensors.keys() and all(sent[name] is tensor for name, tensor in tensors.items())
        return {} if same else tensors

    def _send_vae(self) -> None:
        self.fleet.start()
        if self.vae is not None and self.fleet.sent.get("vae") != self.vae.key:
            for _ in self.fleet.run("take_vae", tensors=self.vae.weights()):
                pass
            self.fleet.sent["vae"] = self.vae.key
