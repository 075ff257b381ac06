"""The whole loop of any member of the family against a golden file."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...checkpoints.adapter import Adapter
from ...config import LTXVAEConfig, TransformerConfig, VAEConfig
from ...media.image import to_reference
from ...models.codec import Codec
from ...models.ltx_vae import LTXVAE
from ...models.transformer import Transformer
from ...models.vae import VAE
from ...presets import PRESETS
from ...sampling.chunk import NoiseSource
from ...sampling.schedule import Schedule
from ...streaming.avatar import prepare_avatar
from ...streaming.engine import LocalEngine
from ...streaming.plan import Chunk, ChunkPlan
from ...streaming.session import Session
from ...streaming.state import StreamState
from .file import Golden, Row, Splitter, loaded, spoken

FIRST_MEMBER = "14b"
"""What a file without a `family` is of."""
STREAM = ("height", "width", "frame_num", "motion_frames", "steps", "shift", "color_correction")


class _Windows:
    """The golden file's audio windows as a session's features."""

    def __init__(self, windows: Tensor) -> None:
        self.windows = windows

    def for_chunk(self, chunk: Chunk) -> Tensor:
        return self.windows[:, chunk.start : chunk.stop]


class _WholePlan(ChunkPlan):
    """A plan whose chunks give all their frames, those that repeat the chunk before included."""

    def chunk(self, index: int) -> Chunk:
        return super().chunk(index)._replace(skip=0, keep=self.frame_num)


def check_stream(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """The whole loop: portrait to condition, then every chunk and what the next one starts from."""
    session = _golden_session(golden, splitter)
    schedule = Schedule.of(session.stream.steps, session.stream.shift, session.stream.bridge)
    timesteps = schedule.timesteps if session.stream.bridge else (*schedule.timesteps, 0.0)
    yield golden.row("reference", session.avatar.reference, 1e-3)
    yield golden.row("cond", session.avatar.cond, 1e-3)
    yield golden.row("timesteps", torch.tensor(timesteps), 1e-3)
    state = session.start(seed=0)
    yield golden.row("motion.0", state.motion, 1e-3)
    for index in range(session.plan.count):
        latent = session.sample(state)
        if golden.find(f"latent.{index}") is not None:
            yield golden.row(f"latent.{index}", latent, 1e-3)
        frames, state = _decoded(session, state, latent)
        yield golden.row(f"chunk.{index}", frames, 1e-3)
        yield golden.row(f"motion.{index + 1}", state.motion, 1e-3)


def _decoded(session: Session, state: StreamState, latent: Tensor) -> tuple[Tensor, StreamState]:
    """The chunk's frames, and the state after it."""
    groups, parts = session.decode(state, latent), list[Tensor]()
    while True:
        try:
            parts.append(next(groups).frames)
        except StopIteration as end:
            return torch.cat(parts, dim=1), end.value


def _golden_session(golden: Golden, splitter: Splitter) -> Session:
    metadata = golden.metadata
    config = TransformerConfig.published(metadata["config"])
    member = PRESETS[metadata.get("family", FIRST_MEMBER)].stream
    transformer = loaded(Transformer(config), _transformer_weights(golden))
    engine = LocalEngine(
        splitter.transformer(transformer),
        _vae(golden, splitter),
        golden.where.device,
        shift=metadata["shift"],
        bridge=member.bridge,
    )
    stream = replace(member, geometry=config.geometry, **{name: metadata[name] for name in STREAM})
    reference = to_reference(Image.fromarray(golden.io("image").cpu().numpy()), stream.height, stream.width)
    posterior = _recorded(golden, "posterior", 1)
    tokens = golden.find("clip"), golden.find("text")
    avatar = prepare_avatar(
        reference, *tokens, engine.encode, stream, posterior=lambda index, shape: posterior(index, (1, *shape))[0]
    )
    total = stream.frame_num + (metadata["chunks"] - 1) * stream.new_frames
    plan = _WholePlan.of(total, stream)
    # The file also holds the draw after the last step, which is multiplied by 0.
    noise = _recorded(golden, "noise", stream.steps + 1)
    return Session(
        engine, avatar, _Windows(golden.io("audio")), plan, stream, noise=lambda _: noise,
        posterior=lambda _: lambda index, shape: posterior(index, (1, *shape))[0],
    )  # fmt: skip


def _transformer_weights(golden: Golden) -> dict[str, Tensor]:
    """The transformer's weights, changed by the adapter where the file has one."""
    weights = golden.weights("weights.dit.")
    if "lora" not in golden.metadata:
        return weights if "family" not in golden.metadata else spoken(weights)
    lora = golden.metadata["lora"]
    adapter = Adapter.of(
        golden.weights("weights.lora."), lora["r"], lora["lora_alpha"], golden.weights("weights.audio_proj.")
    )
    adapter.check(weights)
    return spoken({name: adapter.apply(name, weight) for name, weight in weights.items()})


def _vae(golden: Golden, splitter: Splitter) -> Codec:
    settings: dict[str, Any] = golden.metadata.get("vae", {"kind": "wan2.1"})
    weights = golden.weights("weights.vae.")
    if settings["kind"] == "ltx":
        return splitter.ltx_vae(loaded(LTXVAE(LTXVAEConfig.published(settings["config"])), weights))
    return splitter.vae(loaded(VAE(VAEConfig(golden.metadata["vae_dim"])), weights))


def _recorded(golden: Golden, name: str, draws: int) -> NoiseSource:
    """Noise that the file holds, of which each chunk has so many `draws`."""

    def draw(index: int, shape: tuple[int, ...]) -> Tensor:
        draws_made = [golden.io(f"{name}.{index * draws + number:03d}") for number in range(shape[0])]
        return torch.stack(draws_made) if draws_made else torch.empty(shape)

    return draw
