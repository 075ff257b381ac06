"""From files and settings to a render: what `generate` runs."""

import hashlib
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..checkpoints.model import Model
from ..config import DEFAULT_PROMPT, StreamConfig
from ..errors import InputError
from ..media.audio import open_audio
from ..media.coding import USUAL_CODING, Coding
from ..media.crop import CENTER, Crop, cut_away, shape_of
from ..media.image import load_image, to_reference
from ..media.place import OutputPlace
from ..shapes import FRAMES_PER_SECOND, frames_of_samples
from ..streaming.features import offset_samples, speech_features
from ..streaming.plan import ChunkPlan
from ..streaming.render import Render
from ..streaming.session import Session
from .loading import ModelSettings, Stage, load_talker, open_model, unseen


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Everything a render is made from; None stands for the model's own value.

    `prompts_at` are (seconds, prompt): each holds from the chunk at that time on.
    """

    image: Path
    audio: Path
    output: Path
    crop: Crop = CENTER
    portrait_shape: bool = False
    """The portrait's own shape, at about the area of the model's size."""
    prompt: str = DEFAULT_PROMPT
    prompts_at: tuple[tuple[float, str], ...] = ()
    seed: int = 0
    audio_mode: str = "window"
    audio_offset: float = 0.0
    """Milliseconds by which the lips are ahead of the sound."""
    resume: bool = False
    overwrite: bool = False
    coding: Coding = USUAL_CODING


def prepare(settings: Settings, stage: Stage = unseen) -> tuple[Render, Model]:
    """Read and check all inputs, load the model, and make the avatar: ready to `run`."""
    place = OutputPlace(settings.output)
    settings.coding.check_name(settings.output)
    for path, what in ((settings.image, "the portrait"), (settings.audio, "the sound")):
        place.check_differs(path, what)
    place.check(settings.resume, settings.overwrite)
    offset = offset_samples(settings.audio_offset)
    portrait, (model, stream) = load_image(settings.image), open_model(settings)
    stream = framed(settings, portrait, stream)
    with stage("reading the sound") as share:
        sound = open_audio(settings.audio, share)
    for note in sound.notes:
        print(note, file=sys.stderr)
    plan = ChunkPlan.of(frames_of_samples(sound.samples, sound.sample_rate), stream, settings.audio_mode == "stream")
    changes = {_chunk_at(seconds, plan): prompt for seconds, prompt in settings.prompts_at}
    say_what_is_cut(settings, portrait, stream)
    reference = to_reference(portrait, stream.height, stream.width, settings.crop)
    talker = load_talker(settings, model, stream, reference, (settings.prompt, *changes.values()), stage)
    features = speech_features(sound, model.audio_encoder, plan, settings.audio_mode, offset)
    session = Session(
        talker.engine, talker.avatar, features, plan, stream, dict(zip(changes, talker.prompts, strict=True)),
        ahead=settings.device.type != "cpu", pixels=True,
    )  # fmt: skip
    inputs = {"model": model.fingerprint(), "portrait": talker.avatar.fingerprint, "speech": sound.fingerprint}
    written_sound = sound.reader()  # read by the writer, while the other is by the features
    render = Render(
        session, settings.output, settings.seed, written_sound, inputs | choices(settings, stream),
        resume=settings.resume, overwrite=settings.overwrite, means=means(settings),
        coding=settings.coding,
    )  # fmt: skip
    return render, model


def framed(settings: Settings, portrait: Image.Image, stream: StreamConfig) -> StreamConfig:
    """The stream at the size that the settings ask for."""
    if not settings.portrait_shape:
        return stream
    height, width = shape_of(portrait.size, stream.height, stream.width, settings.crop, stream.geometry)
    return replace(stream, height=height, width=width)


def say_what_is_cut(settings: Settings, portrait: Image.Image, stream: StreamConfig) -> None:
    """Print what of the portrait is cut away, where it is much."""
    cut = cut_away(portrait.size, stream.height, stream.width, settings.crop)
    if cut is not None:
        name, size = settings.image.name, f"{portrait.width}x{portrait.height}"
        advice = "--crop top, --crop X,Y,W,H and --size auto choose another part"
        print(f"{name}, {size}, as {stream.width}x{stream.height}: {cut}; {advice}", file=sys.stderr)


def choices(settings: Settings, stream: StreamConfig) -> dict[str, Any]:
    """What the picture depends on beside its files, under the names that a refused resume gives them."""
    return {
        "prompt": hashlib.sha256(repr((settings.prompt, settings.prompts_at)).encode()).hexdigest(),
        "seed": settings.seed,
        "audio mode": settings.audio_mode,
        "audio offset": settings.audio_offset,
        "size": f"{stream.width}x{stream.height}",
        "steps": stream.steps,
        "color correction": stream.color_correction,
        "correction": None if stream.correction is None else asdict(stream.correction),
        "guidance": None if stream.guidance is None else [asdict(stream.guidance), settings.negative_prompt],
        **({} if stream.joins is None else {"joining": stream.joins}),
        **({"LoRAs": [list(lora.identity) for lora in settings.loras]} if settings.loras else {}),
    }


def means(settings: Settings) -> dict[str, Any]:
    """What it is computed with: a render begun on one machine may go on on another."""
    return {
        "attention": settings.attention,
        "compiled": settings.compiled,
        "devices": str(settings.fleet or settings.device.type),
        "precision": settings.placement.dtype_name(settings.dtype),
    }


def _chunk_at(seconds: float, plan: ChunkPlan) -> int:
    """The chunk that shows the moment `seconds`."""
    length = plan.total_frames / FRAMES_PER_SECOND
    if not 0 <= seconds < length:
        raise InputError(f"a prompt at {seconds} s; the speech lasts {length:.2f} s: give a time within it")
    return plan.index_at(int(seconds * FRAMES_PER_SECOND))
