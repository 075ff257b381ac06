"""Chunks that workers compute as a whole: what is sent for one, and the session that a worker makes of it.

Between processes a chunk is then its sound, once, and the state before it; a seed instead of noise; and frames as
pixels. Latents, colours and the tail that the next chunk starts from stay where they are computed.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import CorrectionConfig, Guidance, StreamConfig
from ..models.color import match_color
from ..shapes import Geometry
from .avatar import Avatar
from .engine import Engine
from .plan import Chunk, ChunkPlan
from .session import Order, Session
from .state import StreamState

STATE = "state."
"""What the names begin with under which a state's tensors are sent."""


def order_message(order: Order) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and tensors of an order, without its avatar."""
    sound, overlapping = without_overlap(order.audio)
    fields = {
        "plan": list(order.plan), "stream": asdict(order.stream), "next": order.state.next_chunk,
        "seed": order.state.seed, "window": order.audio.shape[2] if overlapping else 0,
        "new prompt": order.new_prompt,
    }  # fmt: skip
    return fields, {"sound": sound, **state_tensors(order.state)}


def without_overlap(windows: Tensor) -> tuple[Tensor, bool]:
    """Windows [P,n,W,...] that move on by one each as [P,n+W-1,...]; any others as they are. And which they were."""
    flat = torch.cat([windows[:, 0], windows[:, 1:, -1]], dim=1)
    if torch.equal(windowed(flat, windows.shape[2]), windows):
        return flat, True
    return windows, False


def windowed(flat: Tensor, size: int) -> Tensor:
    """[P,n+W-1,...] -> windows [P,n,W,...]."""
    return flat.unfold(1, size, 1).movedim(-1, 2)


def state_tensors(state: StreamState) -> dict[str, Tensor]:
    """A state's tensors as they are sent."""
    return {f"{STATE}{name}": tensor for name, tensor in state.tensors().items()}


def state_of(index: int, seed: int, tensors: Mapping[str, Tensor]) -> StreamState:
    """The state before chunk `index`, of tensors as they are sent."""
    kept = {name.removeprefix(STATE): tensor for name, tensor in tensors.items() if name.startswith(STATE)}
    return StreamState(index, seed, **kept)


def stream_of(fields: Mapping[str, Any]) -> StreamConfig:
    """A stream as `asdict` and JSON have left it."""
    correction, guidance = fields["correction"], fields["guidance"]
    return StreamConfig(
        **{
            **fields,
            "correction": None if correction is None else CorrectionConfig(**correction),
            "guidance": None if guidance is None else Guidance(**guidance),
            "geometry": Geometry(*fields["geometry"]),
        }
    )


class Sound(NamedTuple):
    """See `session.Features`: of one chunk alone."""

    audio: Tensor

    def for_chunk(self, chunk: Chunk) -> Tensor:
        """See `session.Features`."""
        return self.audio


def session_of(
    engine: Engine,
    avatar: Avatar,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    on_step: Callable[[int], None],
    match: Callable[..., Tensor] = match_color,
) -> tuple[Session, StreamState]:
    """The session that computes an order, and the state from which it goes on; `match` as in `Session`."""
    sound, window = tensors["sound"], fields["window"]
    audio = windowed(sound, window).contiguous() if window else sound
    plan, stream = ChunkPlan(*fields["plan"]), stream_of(fields["stream"])
    prompts = {fields["next"]: avatar.text} if fields["new prompt"] and avatar.text is not None else {}
    session = Session(engine, avatar, Sound(audio), plan, stream, prompts, on_step=on_step, match=match)
    return session, state_of(fields["next"], fields["seed"], tensors)
