"""From files and settings to a render: what the command line runs."""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.model import Model
from ..config import DEFAULT_NEGATIVE_PROMPT, DEFAULT_PROMPT, CorrectionConfig, Guidance, StreamConfig
from ..errors import InputError
from ..hardware.kernels import Shape, choose_attention
from ..hardware.placement import Placement, open_placed
from ..media.audio import open_audio
from ..media.image import load_image, to_reference
from ..parallel.fleet import Fleet
from ..shapes import FRAMES_PER_SECOND, frames_of_samples
from ..streaming.avatar import prepare_avatar
from ..streaming.engine import Engine, LocalEngine
from ..streaming.features import speech_features
from ..streaming.fleet_engine import FleetEngine
from ..streaming.plan import ChunkPlan
from ..streaming.render import Render, check_output
from ..streaming.session import Session


@dataclass(frozen=True)
class Settings:
    """Everything a render is made from; None stands for the model's own value.

    `prompts_at` are (seconds, prompt): each holds from the chunk at that time on.
    """

    image: Path
    audio: Path
    output: Path
    model: str = "nano"
    patch: Path | None = None
    prompt: str = DEFAULT_PROMPT
    prompts_at: tuple[tuple[float, str], ...] = ()
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    seed: int = 0
    audio_mode: str = "window"
    size: tuple[int, int] | None = None
    steps: int | None = None
    color_correction: float | None = None
    correction: CorrectionConfig | None = None
    guidance: Guidance | None = None
    resume: bool = False
    overwrite: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    attention: str = "auto"
    compiled: bool = False
    placement: Placement = field(default_factory=Placement)
    fleet: Fleet | None = None
    """Workers that run transformer and VAE in the place of `device`, which keeps the encoders."""


def prepare(settings: Settings) -> tuple[Render, Model]:
    """Read and check all inputs, load the model, and make the avatar: ready to `run`."""
    check_output(settings.output, settings.resume, settings.overwrite)
    portrait, sound = load_image(settings.image), open_audio(settings.audio)
    _check_speed_options(settings)
    model = open_placed(
        settings.model, settings.device, settings.dtype, settings.placement, settings.size, settings.patch
    )
    stream = stream_of(model.preset.stream, settings)
    total = frames_of_samples(sound.samples, sound.sample_rate)
    plan = ChunkPlan.of(total, stream, live=settings.audio_mode == "stream")
    changes = {_chunk_at(seconds, plan): prompt for seconds, prompt in settings.prompts_at}
    by_text = stream.guidance is not None and stream.guidance.text != 1
    text, *others = model.encode_texts(settings.prompt, *changes.values(), *[settings.negative_prompt] * by_text)
    negative = others.pop() if by_text else None
    reference = to_reference(portrait, stream.height, stream.width)
    clip = model.encode_image(reference)
    features = speech_features(sound, model.audio_encoder, plan, settings.audio_mode)
    engine = engine_of(settings, model, stream, negative)
    avatar = prepare_avatar(reference, clip, text, engine.encode, stream)
    prompts = dict(zip(changes, others, strict=True))
    ahead = settings.device.type != "cpu"
    session = Session(engine, avatar, features, plan, stream, prompts, ahead=ahead)
    inputs = {
        "model": model.fingerprint(),
        "portrait": avatar.fingerprint,
        "speech": sound.fingerprint,
        "prompt": hashlib.sha256(repr((settings.prompt, settings.prompts_at)).encode()).hexdigest(),
        "seed": settings.seed,
        "audio mode": settings.audio_mode,
        "size": f"{stream.width}x{stream.height}",
        "steps": stream.steps,
        "color correction": stream.color_correction,
        "correction": None if stream.correction is None else asdict(stream.correction),
        "guidance": None if stream.guidance is None else [asdict(stream.guidance), settings.negative_prompt],
        "attention": settings.attention,
        "compiled": settings.compiled,
        "device type": str(settings.fleet or settings.device.type),
        "dtype": settings.placement.dtype_name(settings.dtype),
    }
    written_sound = open_audio(settings.audio)  # read by the writer, while the other is by the features
    render = Render(
        session, settings.output, settings.seed, written_sound, inputs,
        resume=settings.resume, overwrite=settings.overwrite,
    )  # fmt: skip
    return render, model


def _check_speed_options(settings: Settings) -> None:
    """Raise `InputError` for options that do not go together."""
    if settings.fleet is not None and (settings.attention != "auto" or settings.compiled or settings.placement):
        raise InputError("--attention, --compile, --fp8 and --memory are for one device; leave them out, or --devices")
    if settings.compiled and settings.placement.memory is not None:
        raise InputError("--compile makes one graph of a step, and --memory streams weights into it: leave one out")


def engine_of(settings: Settings, model: Model, stream: StreamConfig, negative: Tensor | None) -> Engine:
    """The engine: workers where there are some, else this process. `negative`: tokens of the negative prompt."""
    if settings.fleet is not None:
        return FleetEngine(settings.fleet, stream.shift, guidance=stream.guidance, negative=negative)
    widths = model.preset.transformer
    shape = Shape(settings.device, settings.dtype, widths.num_heads, widths.head_dim)
    attention = choose_attention(settings.attention, shape)
    return LocalEngine(
        model.transformer, model.vae, settings.device, stream.shift, attention, settings.compiled,
        stream.guidance, negative,
    )  # fmt: skip


def stream_of(default: StreamConfig, settings: Settings) -> StreamConfig:
    """The model's stream with the settings that were given."""
    height, width = settings.size or (default.height, default.width)
    names = ("steps", "color_correction", "correction", "guidance")
    changes = {name: value for name in names if (value := getattr(settings, name)) is not None}
    return replace(default, height=height, width=width, **changes)


def _chunk_at(seconds: float, plan: ChunkPlan) -> int:
    """The chunk that shows the moment `seconds`."""
    length = plan.total_frames / FRAMES_PER_SECOND
    if not 0 <= seconds < length:
        raise InputError(f"a prompt at {seconds} s; the speech lasts {length:.2f} s: give a time within it")
    return plan.index_at(int(seconds * FRAMES_PER_SECOND))
