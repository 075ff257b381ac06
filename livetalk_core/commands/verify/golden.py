"""Checks the models against golden files: numbers that the published reference computed.

Each file carries its inputs, its outputs and small random weights under the published keys; `kind` says what it
holds. The model is built from the file alone, so a file of other sizes and seeds is checked the same way.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...checkpoints import keys
from ...config import (
    AudioEncoderConfig,
    ImageEncoderConfig,
    LTXVAEConfig,
    StreamConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from ...errors import CheckpointError
from ...files import check_readable
from ...media.image import to_reference
from ...media.loudness import gain_to, integrated_loudness
from ...models.audio_encoder import AudioEncoder, windows
from ...models.color import ColorStatistics, match_color
from ...models.image_encoder import ImageEncoder
from ...models.ltx_vae import LTXVAE
from ...models.text_encoder import TextEncoder
from ...models.transformer import Transformer
from ...models.vae import VAE
from ...parallel.collectives import greatest
from ...parallel.fleet import Fleet
from ...parallel.ltx_vae import SplitLTXVAE
from ...parallel.mesh import Mesh, degrees
from ...parallel.sequence import split_sequence
from ...parallel.vae import SplitVAE
from ...parallel.worker import Job
from ...sampling.schedule import sigmas
from ...streaming.avatar import prepare_avatar
from ...streaming.engine import LocalEngine
from ...streaming.plan import Chunk, ChunkPlan
from ...streaming.session import ChunkEnd, Frames, Session

VAES = ("vae", "ltx_vae")
NOTHING_TO_SPLIT = "nothing to split"


class Row(NamedTuple):
    """One compared output: its largest absolute error, the most that is allowed, and how the model was split."""

    name: str
    error: float
    tolerance: float
    split: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not)."""
        return self.error <= self.tolerance


class _Contents(dict[str, Any]):
    """What a golden file holds, by name; a `CheckpointError` for what it lacks."""

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        super().__init__(found)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(f"{self._path} lacks {name!r}; needed is a whole golden file: get it again")


class Golden:
    """An opened golden file."""

    def __init__(self, path: Path) -> None:
        check_readable(path, "the golden file", "a file of numbers of the reference", CheckpointError)
        try:
            with safe_open(path, "pt") as file:
                self.metadata = _Contents(path, {k: json.loads(v) for k, v in (file.metadata() or {}).items()})
                self.tensors = _Contents(path, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{path} is no golden file ({error}); needed: safetensors with JSON metadata"
            ) from None
        if self.metadata.get("kind") not in CHECKS:
            kind = self.metadata.get("kind")
            raise CheckpointError(f"{path} is of kind {kind!r}; the kinds that can be checked: {', '.join(CHECKS)}")

    def io(self, name: str) -> Tensor:
        """An input or output."""
        return self.tensors[f"io.{name}"]

    def find(self, name: str) -> Tensor | None:
        """An input that not every file has."""
        return self.tensors.get(f"io.{name}")

    def weights(self, prefix: str = "weights.") -> dict[str, Tensor]:
        """The weights under `prefix`, which is cut off."""
        return {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}

    def row(self, name: str, found: Tensor, tolerance: float) -> Row:
        """Compare with the output `name`."""
        wanted = self.io(name)
        if found.shape != wanted.shape:
            raise CheckpointError(f"{name} has shape {list(found.shape)}; the golden file has {list(wanted.shape)}")
        return Row(name, (found.double() - wanted.double()).abs().max().item(), tolerance)


class Splitter(Protocol):
    """Prepares the built models before they are run."""

    def transformer(self, model: Transformer) -> Transformer:
        """The transformer to run."""
        ...

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """The VAE to run."""
        ...

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """The VAE to run."""
        ...


class Whole:
    """Everything in this process."""

    def transformer(self, model: Transformer) -> Transformer:
        """The model itself."""
        return model

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """The model itself."""
        return model

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """The model itself."""
        return model


class Shares:
    """This rank's share of all ranks' work."""

    def __init__(self, ulysses: int | None) -> None:
        self.ulysses = ulysses

    def transformer(self, model: Transformer) -> Transformer:
        """Split over the tokens."""
        return split_sequence(model, Mesh.of(model.config.num_heads, self.ulysses))

    def vae(self, model: VAE) -> VAE | SplitVAE:
        """Split over the rows."""
        return SplitVAE(model)

    def ltx_vae(self, model: LTXVAE) -> LTXVAE | SplitLTXVAE:
        """Split over the rows."""
        return SplitLTXVAE(model)


def _loaded(model: nn.Module, weights: dict[str, Tensor]) -> Any:
    model.load_state_dict(weights)
    return model.eval()


def check_transformer(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """One forward of the transformer, with one or two speakers."""
    whole = _loaded(Transformer(TransformerConfig(**golden.metadata["config"])), golden.weights())
    model = splitter.transformer(whole)
    context = model.embed_context(golden.io("text")[None], golden.io("clip"))
    audio = model.embed_audio(golden.io("audio"))
    latent, cond = golden.io("latent")[None], golden.io("cond")[None]
    yield golden.row("out", model(latent, golden.io("timestep"), cond, context, audio, golden.find("masks"))[0], 1e-4)


def check_head(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """One forward of a transformer that reads no prompt."""
    config = TransformerConfig.published(golden.metadata["config"])
    model = splitter.transformer(_loaded(Transformer(config), _spoken(golden.weights())))
    context, audio = model.embed_context(None, None), model.embed_audio(golden.io("audio"))
    latent, cond = golden.io("latent")[None], golden.io("cond")[None]
    yield golden.row("out", model(latent, golden.io("timestep"), cond, context, audio)[0], 1e-4)


def _spoken(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what FlashHead's files hold and its model never reads."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(("text_embedding.", "audio_emb."))}


def check_vae(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """Encode and decode."""
    metadata = golden.metadata
    config = VAEConfig(metadata["dim"], tuple(metadata["mean"]), tuple(metadata["std"]))
    vae = splitter.vae(_loaded(VAE(config), golden.weights()))
    yield golden.row("latent", vae.encode(golden.io("video"))[0], 1e-4)
    groups = list(vae.decode_groups(golden.io("z")[None], clamp=False))
    unclamped = torch.cat(groups, dim=2)
    yield golden.row("decoded_unclamped", unclamped, 1e-4)
    yield golden.row("decoded", vae.decode(golden.io("z")[None]), 1e-4)


def check_ltx_vae(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """Encode to a distribution, its mean and a draw; decode."""
    config = LTXVAEConfig.published(golden.metadata["config"])
    vae = splitter.ltx_vae(_loaded(LTXVAE(config), golden.weights()))
    video = golden.io("video")
    yield golden.row("latent", vae.encode(video)[0], 1e-4)
    yield golden.row("logvar", vae.posterior(video).log_variance[0, 0], 1e-4)
    yield golden.row("sampled", vae.encode_sample(video, golden.io("sample_noise")[None])[0], 1e-4)
    yield golden.row("decoded", vae.decode(golden.io("z")[None]), 1e-4)


def check_audio(golden: Golden, _: Splitter) -> Iterator[Row]:
    """Loudness where the member of the family sets it, then the audio encoder and its windows."""
    waveform, frames = golden.io("waveform").double(), golden.metadata["frames"]
    normalized = waveform * gain_to(golden.metadata["lufs"], integrated_loudness(waveform.numpy()))
    standardized = AudioEncoder.standardize(normalized)
    if golden.metadata["lufs"] is None:
        yield golden.row("standardized", standardized, 1e-5)
    else:
        yield golden.row("normalized", normalized, 1e-6)
    config = AudioEncoderConfig(**{**golden.metadata["config"], "lufs": golden.metadata["lufs"]})
    encoder = _loaded(AudioEncoder(config), keys.audio_encoder(golden.weights()))
    embedding = encoder.embed(standardized, frames)
    yield golden.row("embedding", embedding, 1e-4)
    yield golden.row("windows_first8", windows(embedding, 0, 8), 1e-4)
    yield golden.row("windows_last8", windows(embedding, frames - 8, frames), 1e-4)


def check_color(golden: Golden, _: Splitter) -> Iterator[Row]:
    """Colour transfer at full and half strength."""
    reference = ColorStatistics.of(golden.io("reference"))
    for name, strength in (("full", 1.0), ("half", 0.5)):
        yield golden.row(name, match_color(golden.io("source"), reference, strength), 1e-5)


def check_text(golden: Golden, _: Splitter) -> Iterator[Row]:
    """The text encoder."""
    names = ("vocab", "dim", "dim_attn", "dim_ffn", "num_heads", "num_layers", "num_buckets")
    config = TextEncoderConfig(**{name: golden.metadata[name] for name in names})
    encoder = _loaded(TextEncoder(config), keys.text_encoder(golden.weights()))
    yield golden.row("out", encoder.encode(golden.io("ids"), golden.metadata["length"]), 1e-4)


def check_image(golden: Golden, _: Splitter) -> Iterator[Row]:
    """The vision encoder and its preprocessing."""
    names = ("dim", "num_layers", "num_heads", "image_size", "patch_size")
    config = ImageEncoderConfig(**{name: golden.metadata[name] for name in names})
    encoder = _loaded(ImageEncoder(config), keys.image_encoder(golden.weights()))
    pixels = encoder.preprocess(golden.io("frame"))
    yield golden.row("pixels", pixels, 1e-4)
    yield golden.row("out", encoder.embed(pixels), 1e-4)


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
    levels = torch.tensor(sigmas(session.stream.steps, golden.metadata["shift"]))
    yield golden.row("reference", session.avatar.reference, 1e-3)
    yield golden.row("cond", session.avatar.cond, 1e-3)
    yield golden.row("timesteps", levels * 1000, 1e-3)
    state = session.start(seed=0)
    yield golden.row("motion.0", state.motion, 1e-3)
    parts: list[Tensor] = []
    for event in session.run(state):
        match event:
            case Frames():
                parts.append(event.frames)
            case ChunkEnd():
                yield golden.row(f"chunk.{event.chunk.index}", torch.cat(parts, dim=1), 1e-3)
                yield golden.row(f"motion.{event.chunk.index + 1}", event.state.motion, 1e-3)
                parts = []


def _golden_session(golden: Golden, splitter: Splitter) -> Session:
    metadata = golden.metadata
    transformer = _loaded(Transformer(TransformerConfig(**metadata["config"])), golden.weights("weights.dit."))
    vae = _loaded(VAE(VAEConfig(metadata["vae_dim"])), golden.weights("weights.vae."))
    engine = LocalEngine(splitter.transformer(transformer), splitter.vae(vae), shift=metadata["shift"])
    names = ("height", "width", "frame_num", "motion_frames", "steps", "shift", "color_correction")
    stream = StreamConfig(**{name: metadata[name] for name in names})
    reference = to_reference(Image.fromarray(golden.io("image").numpy()), stream.height, stream.width)
    avatar = prepare_avatar(reference, golden.io("clip"), golden.io("text"), engine.encode, stream)
    total = stream.frame_num + (metadata["chunks"] - 1) * stream.new_frames
    plan = _WholePlan.of(total, stream)
    draws = stream.steps + 1  # the file also holds the draw after the last step, which is multiplied by 0

    def noise(_: int) -> Callable[[int, tuple[int, ...]], Tensor]:
        return lambda index, shape: torch.stack(
            [golden.io(f"noise.{index * draws + draw:03d}") for draw in range(shape[0])]
        )

    return Session(engine, avatar, _Windows(golden.io("audio")), plan, stream, noise=noise)


CHECKS: dict[str, Callable[[Golden, Splitter], Iterator[Row]]] = {
    "dit": check_transformer,
    "head": check_head,
    "vae": check_vae,
    "ltx_vae": check_ltx_vae,
    "audio": check_audio,
    "color": check_color,
    "text": check_text,
    "image": check_image,
    "stream": check_stream,
}


def verify(path: Path, splitter: Splitter | None = None) -> Iterator[Row]:
    """Compare every output in a golden file with what our models compute, in float32 on the CPU."""
    golden = Golden(path)
    with torch.inference_mode():
        yield from CHECKS[golden.metadata["kind"]](golden, splitter or Whole())


class VerifyRunner:
    """What a worker runs: the checks on its share, all ranks together."""

    def verify(self, job: Job) -> None:
        """Reports every row with the greatest error of any rank."""
        for row in verify(Path(job.fields["path"]), Shares(job.fields["ulysses"])):
            error = torch.tensor(row.error).nan_to_num(torch.inf)
            job.report(row._replace(error=greatest(error).item())._asdict())


def verify_split(path: Path, ranks: int, fleet: Fleet) -> Iterator[Row]:
    """The same on the `ranks` workers of a fleet, for every way in which the file's model can be split.

    Files without a model that is split are checked here; their rows say so.
    """
    metadata = Golden(path).metadata
    kind = metadata["kind"]
    if kind not in ("dit", "head", *VAES, "stream"):
        yield from (row._replace(split=NOTHING_TO_SPLIT) for row in verify(path))
        return
    ways = [(None, ranks)] if kind in VAES else degrees(ranks, metadata["config"]["num_heads"])
    for ulysses, ring in ways:
        split = f"{ranks} x rows" if ulysses is None else f"{ulysses} x {ring}"
        for message in fleet.run("verify", {"path": str(path.resolve()), "ulysses": ulysses}):
            yield Row(**{**message.fields, "split": split})
