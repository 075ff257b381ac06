"""What `python -m livetalk_core train STAGE` runs, in this order: speech, vae, audio, image, prepare, adapt, distill;
`lora` after any of them.

A run's folder holds everything it made; the same command goes on where it stopped. `export` writes its averaged weights
as the model reads them: those in `assets` make the embedded model.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..checkpoints import nano
from ..checkpoints.convert import write_weights
from ..checkpoints.load import open_model
from ..checkpoints.lora import write_lora
from ..checkpoints.model import Model
from ..config import DEFAULT_PROMPT
from ..errors import InputError
from ..files import make_folder
from ..models.fp8 import quantize
from ..models.vae import VAE
from ..presets import PRESETS
from ..sampling.schedule import sigmas
from ..shapes import WAN
from .adapt import Adaptation
from .data import TakeSource, video
from .distill import Distillation
from .encoders import AudioTask, ImageTask
from .espeak import make_corpus
from .flow import Denoiser
from .keeping import averaged
from .latents import CAPTIONS, Encoders, Pool, Preparation, least_frames, save_texts
from .lora import Likeness, MatchedLikeness, pairs_of
from .pictures import PictureFolder, collect_photographs
from .plot import plot_record
from .settings import Settings
from .sharding import processes
from .speech import SpeechFolder
from .trainer import RECORD, Task, Trainer
from .trips import TripsTask
from .vae import VAETask, calibrate, prepare

CALIBRATION_CLIPS = 24
TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
"""What torchrun tells its processes, and what holds without it."""


@dataclass
class Run:
    """One command's settings with the model whose parts it begins with."""

    settings: Settings

    def __post_init__(self) -> None:
        # Of several processes none makes a float32 copy of the whole: weights are mapped, and become float32 with the
        # share that a process keeps (`sharding.place`). Nor are weights that are to be FP8 copied before they are.
        dtype = torch.float32 if processes() == 1 and not self.settings.fp8 else None
        self.model: Model = open_model(self.settings.model, "cpu", dtype, self.settings.patch)
        # A patched model learns the stream of the distilled one, not its own long chunks of many steps.
        self.stream = self.model.preset.stream if self.settings.patch is None else PRESETS["14b"].stream
        self.dtype = getattr(torch, self.settings.dtype)

    @property
    def source(self) -> TakeSource:
        """Drawn takes that speak the recordings."""
        data = self.settings.data
        pictures = PictureFolder.open(data.pictures)
        speech = SpeechFolder.open(data.speech)
        return TakeSource(
            speech, data.seed, liveliness=data.liveliness, pictures=pictures, covered=data.covered,
            altered=data.altered, phrased=data.phrased, person=data.person,
        )  # fmt: skip

    @property
    def pool(self) -> Pool:
        """Prepared takes."""
        length = self.model.preset.transformer.text_len
        return Pool(self.settings.data.pool, length, self.settings.schedule.seed, self.settings.data.held)

    def part(self, name: str, trained: bool) -> Any:
        """A part of the model that computes in the run's dtype; a trained one has its gradients on."""
        part = getattr(self.model, f"load_{name}")()
        if trained and self.settings.fresh:
            part.load_state_dict(nano.first_weights(name, part))
        part.requires_grad_(trained).train(trained)
        if hasattr(part, "dtype"):
            part.dtype = self.dtype
        return part

    def transformer(self, trained: bool) -> Denoiser:
        """The transformer that the run begins with."""
        part = self.part("transformer", trained)
        if self.settings.repeats_portrait is not None:
            part.config = replace(part.config, repeats_portrait=self.settings.repeats_portrait)
        transformer = Denoiser.of(part).requires_grad_(trained).train(trained)
        if self.settings.init is not None:
            # Several processes map the file; one alone may go on to train in what it has read.
            transformer.load_state_dict(averaged(self.settings.init, "transformer"), assign=processes() > 1)
        transformer.checkpointing = self.settings.checkpointing and trained
        return transformer

    def base(self) -> Denoiser:
        """The transformer that a LoRA is trained on."""
        transformer = self.transformer(False)
        transformer.checkpointing = self.settings.checkpointing
        for block in transformer.blocks if self.settings.fp8 else ():
            quantize(block)
        return transformer

    def vae(self) -> VAE:
        """The frozen VAE; `InputError` for one whose latents are not trained on."""
        if self.stream.geometry != WAN:
            raise InputError(f"{self.model} has other latents than Wan's VAE; train the 14B model, Pro or nano instead")
        return self.part("vae", False)


def made(kind: Callable[..., Any], run: Run, *parts: Any) -> Any:
    """A task of its parts and of the configuration's `task`; `InputError` for a setting that it does not have."""
    known = [name for name in signature(kind).parameters][len(parts) :]
    unknown = sorted(set(run.settings.task) - set(known))
    if unknown:
        raise InputError(f"[task] has the unknown {', '.join(unknown)}; known are {', '.join(known)}")
    return kind(*parts, **run.settings.task)


def vae_task(run: Run) -> Task:
    """The VAE from its first weights or, where the run is not `fresh`, from the model's."""
    vae = run.part("vae", True)
    pictures = PictureFolder.open(run.settings.data.pictures)
    kind = TripsTask if "trips" in run.settings.task else VAETask
    return made(kind, run, prepare(vae) if run.settings.fresh else vae, run.source, run.settings.phases, pictures)


def audio_task(run: Run) -> Task:
    """The audio encoder."""
    return made(AudioTask, run, run.part("audio_encoder", True), run.source)


def image_task(run: Run) -> Task:
    """The image encoder."""
    return made(ImageTask, run, run.part("image_encoder", True), run.source)


def adapt_task(run: Run) -> Task:
    """Stage 1."""
    return made(Adaptation, run, run.transformer(True), run.vae(), run.pool)


def lora_task(run: Run) -> Task:
    """One person's LoRA. By distribution matching where one is named that it is `taught_by`; else by flow matching, at
    the levels of the stream's own steps where the configuration names none."""
    if "taught_by" in run.settings.task:
        base = run.base()
        return made(MatchedLikeness, run, base.twin(), base.twin(), base, run.vae(), run.pool, run.stream)
    task: Likeness = made(Likeness, run, run.base(), run.vae(), run.pool)
    if not task.levels and not task.every_level and run.stream.guidance is None:
        task.levels = sigmas(run.stream.steps, run.stream.shift)[:-1]
    return task


def distill_task(run: Run) -> Task:
    """Stage 2: student, critic and teacher all begin with the same weights."""
    student, critic, teacher = (run.transformer(trained) for trained in (True, True, False))
    return made(Distillation, run, student, critic, teacher, run.vae(), run.pool, run.stream)


TASKS: Mapping[str, Callable[[Run], Task]] = {
    "vae": vae_task,
    "audio": audio_task,
    "image": image_task,
    "adapt": adapt_task,
    "lora": lora_task,
    "distill": distill_task,
}


PARTS = {"vae", "audio", "image"}
"""Stages that train another part than the transformer, and so take no `init` of one."""
ALONE = {*PARTS, "lora"}
"""Stages whose trained network is small, and not split over processes."""


def train(stage: str, settings: Settings, folder: Path) -> Path:
    """Run a stage to its end; returns its folder."""
    if stage in PARTS and settings.init is not None:
        raise InputError(f"train {stage} has the init {settings.init}; adapt, distill and lora take one: remove it")
    if stage != "lora" and settings.fp8:
        raise InputError(f"train {stage} has fp8, in which nothing can be trained; for train lora alone: remove it")
    accelerator = Accelerator()
    if accelerator.num_processes > 1 and stage in ALONE:
        raise InputError(f"train {stage} runs in one process; {accelerator.num_processes} were started")
    Trainer(TASKS[stage](Run(settings)), settings.schedule, folder, accelerator).run()
    accelerator.end_training()  # a process that ends with its group standing may be aborted
    if (folder / RECORD).exists():  # not of a run that is shorter than `log_every`
        plot_record(folder)
    return folder


def fill_speech(settings: Settings, device: torch.device) -> Iterator[Path]:
    """Make recordings of synthetic speech; yields their folder."""
    make_corpus(settings.data.speech, settings.data.minutes, settings.data.seed)
    yield settings.data.speech


def fill_pictures(settings: Settings, device: torch.device) -> Iterator[Path]:
    """Collect photographs to train on; yields their files."""
    if settings.data.pictures is None:
        raise InputError("the configuration names no pictures; set `pictures` under [data] to a folder")
    yield from collect_photographs(settings.data.pictures)


def fill_pool(settings: Settings, device: torch.device) -> Iterator[Path | str]:
    """Prepare takes, drawn or of clips; yields which clips are used and left out, then every shard.

    Processes that torchrun has started share the shards out, each on the GPU of its number where the device is one.
    """
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in TORCHRUN)
    if device.type == "cuda" and device.index is None and ranks > 1:
        device = torch.device("cuda", local)
    run, data, captions = Run(settings), settings.data, list[str]()
    preparation = Preparation(data.takes, data.sizes, run.stream.frame_num, data.windows)
    if data.clips is None:
        scene = run.source.scene
    else:
        from .clips import ClipSource  # here, so that machines without PyAV can train on drawn takes

        least = least_frames(preparation.frames)
        clips = ClipSource.open(data.clips, data.sizes, data.seed, least=least, filters=data.filters)
        yield str(clips)
        captions = clips.captions if run.model.preset.transformer.prompted else []
        preparation, scene = replace(preparation, sizes=clips.turns, kind="clips-"), clips.take
    prompted = run.model.preset.transformer.prompted
    image = run.part("image_encoder", False) if prompted else None
    encoders = Encoders(run.vae(), run.part("audio_encoder", False), image).to(device)
    make_folder(data.pool)
    if rank == 0:
        none = [torch.zeros(1, 1)]
        save_texts(data.pool, run.model.encode_texts(DEFAULT_PROMPT, *data.prompts) if prompted else none)
        if captions and prompted:
            save_texts(data.pool, run.model.encode_texts(*captions), CAPTIONS)
    yield from preparation.fill(data.pool, scene, encoders, turn=(rank, ranks), captions=captions)


PREPARATIONS = {"speech": fill_speech, "pictures": fill_pictures, "prepare": fill_pool}
"""What is made before training."""


def export(stage: str, settings: Settings, folder: Path, output: Path) -> Path:
    """A run's averaged weights, blended with the first ones where settings say so, as the model reads them, in
    float16; latents of a new encoder are calibrated.

    Of several processes, the first writes them.
    """
    if not Accelerator().is_main_process:
        return output
    if stage == "lora":
        return _export_lora(settings, averaged(folder, "lora"), output)
    name = {"vae": "vae", "audio": "audio_encoder", "image": "image_encoder", "adapt": "transformer"}.get(
        stage, "student"
    )
    weights = averaged(folder, name)
    if settings.blend < 1:
        init = settings.init
        first = Run(settings).part(name, False).state_dict() if init is None else averaged(init, "transformer")
        weights = {key: first[key].float().lerp(value.float(), settings.blend) for key, value in weights.items()}
    if stage == "vae" and not {"decoder_only", "trips"} & set(settings.task):
        weights = _calibrated(Run(settings), weights)
    write_weights(output, weights, lambda key, value: {key: value.half()})
    return output


def _export_lora(settings: Settings, weights: Mapping[str, torch.Tensor], output: Path) -> Path:
    pairs = pairs_of(weights)
    rank = len(next(iter(pairs.values()))[0])
    write_lora(output, pairs, settings.task.get("alpha", Likeness.alpha), {"base": settings.model, "rank": str(rank)})
    return output


def _calibrated(run: Run, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    vae = run.model.load_vae()
    assert isinstance(vae, VAE), "what is trained is the embedded model"
    vae.load_state_dict(weights)
    size = (run.stream.height, run.stream.width)
    index = torch.arange(run.stream.frame_num)[None]
    calibrate(vae, (video([run.source.take(take)], index, size) for take in range(CALIBRATION_CLIPS)))
    return vae.state_dict()
