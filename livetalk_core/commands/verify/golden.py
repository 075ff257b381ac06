"""Checks the models against golden files: numbers that the published reference computed.

Each file carries its inputs, its outputs and small random weights under the published keys; `kind` says what it
holds. The model is built from the file alone, so a file of other sizes and seeds is checked the same way.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ...checkpoints import keys
from ...config import (
    AudioEncoderConfig,
    ImageEncoderConfig,
    LTXVAEConfig,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
)
from ...errors import CheckpointError
from ...hardware.fused import passes_of
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
from ...parallel.mesh import degrees
from ...parallel.worker import Job
from .file import Golden, Row, Shares, Splitter, Where, Whole, loaded, spoken
from .stream import check_stream

VAES = ("vae", "ltx_vae")
NOTHING_TO_SPLIT = "nothing to split"


def check_transformer(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """One forward of the transformer, with one or two speakers."""
    transformer = loaded(Transformer(TransformerConfig(**golden.metadata["config"])), golden.weights())
    model = splitter.transformer(transformer)
    context = model.embed_context(golden.io("text")[None], golden.io("clip"))
    audio = model.embed_audio(golden.io("audio"))
    latent, cond, passes = golden.io("latent")[None], golden.io("cond")[None], passes_of(model, golden.where.device)
    out = model(latent, golden.io("timestep"), cond, context, audio, golden.find("masks"), passes=passes)
    yield golden.row("out", out[0], 1e-4)


def check_head(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """One forward of a transformer that reads no prompt."""
    config = TransformerConfig.published(golden.metadata["config"])
    model = splitter.transformer(loaded(Transformer(config), spoken(golden.weights())))
    context, audio = model.embed_context(None, None), model.embed_audio(golden.io("audio"))
    latent, cond, passes = golden.io("latent")[None], golden.io("cond")[None], passes_of(model, golden.where.device)
    yield golden.row("out", model(latent, golden.io("timestep"), cond, context, audio, passes=passes)[0], 1e-4)


def check_vae(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """Encode and decode."""
    metadata = golden.metadata
    config = VAEConfig(metadata["dim"], tuple(metadata["mean"]), tuple(metadata["std"]))
    vae = splitter.vae(loaded(VAE(config), golden.weights()))
    yield golden.row("latent", vae.encode(golden.io("video"))[0], 1e-4)
    groups = list(vae.decode_groups(golden.io("z")[None], clamp=False))
    unclamped = torch.cat(groups, dim=2)
    yield golden.row("decoded_unclamped", unclamped, 1e-4)
    yield golden.row("decoded", vae.decode(golden.io("z")[None]), 1e-4)


def check_ltx_vae(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """Encode to a distribution, its mean and a draw; decode."""
    config = LTXVAEConfig.published(golden.metadata["config"])
    vae = splitter.ltx_vae(loaded(LTXVAE(config), golden.weights()))
    video = golden.io("video")
    yield golden.row("latent", vae.encode(video)[0], 1e-4)
    yield golden.row("logvar", vae.posterior(video).log_variance[0, 0], 1e-4)
    yield golden.row("sampled", vae.encode_sample(video, golden.io("sample_noise")[None])[0], 1e-4)
    yield golden.row("decoded", vae.decode(golden.io("z")[None]), 1e-4)


def check_audio(golden: Golden, _: Splitter) -> Iterator[Row]:
    """Loudness where the member of the family sets it, then the audio encoder and its windows."""
    waveform, frames = golden.io("waveform").double().cpu(), golden.metadata["frames"]
    normalized = waveform * gain_to(golden.metadata["lufs"], integrated_loudness(waveform.numpy()))
    standardized = AudioEncoder.standardize(normalized)
    if golden.metadata["lufs"] is None:
        yield golden.row("standardized", standardized, 1e-5)
    else:
        yield golden.row("normalized", normalized, 1e-6)
    config = AudioEncoderConfig(**{**golden.metadata["config"], "lufs": golden.metadata["lufs"]})
    encoder = loaded(AudioEncoder(config), keys.audio_encoder(golden.weights()))
    embedding = encoder.embed(standardized.to(golden.where.device), frames)
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
    encoder = loaded(TextEncoder(config), keys.text_encoder(golden.weights()))
    yield golden.row("out", encoder.encode(golden.io("ids"), golden.metadata["length"]), 1e-4)


def check_image(golden: Golden, _: Splitter) -> Iterator[Row]:
    """The vision encoder and its preprocessing."""
    names = ("dim", "num_layers", "num_heads", "image_size", "patch_size")
    config = ImageEncoderConfig(**{name: golden.metadata[name] for name in names})
    encoder = loaded(ImageEncoder(config), keys.image_encoder(golden.weights()))
    pixels = encoder.preprocess(golden.io("frame"))
    yield golden.row("pixels", pixels, 1e-4)
    yield golden.row("out", encoder.embed(pixels), 1e-4)


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


def open_golden(path: Path, where: Where = Where()) -> Golden:  # noqa: B008 - frozen
    """The file; a `CheckpointError` where it is of no kind that can be checked."""
    golden = Golden(path, where)
    if (kind := golden.metadata.get("kind")) not in CHECKS:
        raise CheckpointError(f"{path} is of kind {kind!r}; the kinds that can be checked: {', '.join(CHECKS)}")
    return golden


def verify(path: Path, splitter: Splitter | None = None, where: Where = Where()) -> Iterator[Row]:  # noqa: B008
    """Compare every output in a golden file with what our models compute, on a device and in a dtype.

    Without TF32, which rounds float32 on a GPU to 10 bits.
    """
    yield from rows_of(open_golden(path, where), splitter or Whole())


def rows_of(golden: Golden, splitter: Splitter) -> Iterator[Row]:
    """The same for an opened file."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield from CHECKS[golden.metadata["kind"]](golden, splitter)


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
    metadata = open_golden(path).metadata
    kind = metadata["kind"]
    if kind not in ("dit", "head", *VAES, "stream"):
        yield from (row._replace(split=NOTHING_TO_SPLIT) for row in verify(path))
        return
    ways = [(None, ranks)] if kind in VAES else degrees(ranks, metadata["config"]["num_heads"])
    for ulysses, ring in ways:
        split = f"{ranks} x rows" if ulysses is None else f"{ulysses} x {ring}"
        for message in fleet.run("verify", {"path": str(path.resolve()), "ulysses": ulysses}):
            yield Row(**{**message.fields, "split": split})
