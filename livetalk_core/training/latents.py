"""Prepared takes: everything that frozen parts make of a take, computed once, so that training runs neither VAE nor
encoders.

A folder of shards, `HEIGHTxWIDTH-NUMBER.safetensors`, each with the same tensors for some takes (A takes, W windows a
take, F latent frames, T frames of a take), and `texts.safetensors` with encoded prompts:

- latents [A,W,16,F,h,w]: windows of a chunk's length, the first of which starts with the reference frame;
- starts [A,W]: their first frames; weights [A,W,F,h,w]: how much each point counts, 1 on average;
- sound [A,T,blocks,channels]: audio features of the whole take;
- caption [A]: the number of the take's own prompt in `captions.safetensors`, -1 for none;
- reference [A,3,H,W]: the reference frame, bytes; cond [A,16,F,h,w]: its condition latent; clip [A,S,clip_dim], which
  is missing for a model that reads no prompt, and whose `cond` is the portrait held still.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..files import make_folder
from ..models.audio_encoder import AudioEncoder
from ..models.image_encoder import ImageEncoder
from ..models.vae import VAE
from ..shapes import SAMPLE_RATE, WAN, frames_of_samples
from .chance import generator_of
from .data import Footage, Size
from .trainer import Batch
from .vae import moments

TEXTS, CAPTIONS = "texts.safetensors", "captions.safetensors"


class Scene(Protocol):
    """One person speaking, drawn or filmed: `frames` that can be shown, and the standardised 16 kHz `sound` [S], at
    least as long and the same length in all scenes of a shard; `caption`, its own prompt, or nothing."""

    @property
    def frames(self) -> int: ...

    @property
    def sound(self) -> Tensor: ...

    @property
    def caption(self) -> str: ...

    def film(self, index: Tensor) -> Footage:
        """The frames of windows `index` [W,T], each ascending."""
        ...


class Encoders(NamedTuple):
    """The frozen parts; without `image` of a model that reads no prompt, whose condition is the portrait held still."""

    vae: VAE
    audio: AudioEncoder
    image: ImageEncoder | None

    def to(self, device: torch.device) -> "Encoders":
        """The same on a device."""
        image = None if self.image is None else self.image.to(device)
        return Encoders(self.vae.to(device), self.audio.to(device), image)


@torch.inference_mode()
def encode_window(vae: VAE, frames_BCTHW: Tensor) -> Tensor:
    """Frames in -1..1 -> normalised latents [B,16,F,h,w] in float32: `VAE.encode`, all later frames in one group."""
    raw = moments(vae, frames_BCTHW)[0]
    mean, std = raw.new_tensor([vae.config.latent_mean, vae.config.latent_std])[:, None, :, None, None, None]
    return (raw - mean) / std


@torch.inference_mode()
def prepare_take(
    scene: Scene, encoders: Encoders, frames: int, windows: int, seed: int, captions: Sequence[str] = ()
) -> Batch:
    """One take's tensors as in a shard, but for the first dimension. It must be `least_frames` long."""
    chance = generator_of("windows", seed)
    last = scene.frames - frames
    reference = int(torch.randint(last + 1, (), generator=chance))
    starts = torch.tensor([reference, *_elsewhere(reference, frames, last, windows - 1, chance)])
    video, weight = scene.film(starts[:, None] + torch.arange(frames))
    portrait = video[:1, :, :1].expand_as(video[:1]).clone()
    if encoders.image is not None:
        portrait[:, :, 1:] = 0
    device = next(encoders.vae.parameters()).device
    latents = [encode_window(encoders.vae, window.to(device)) for window in video.split(1)]  # faster than all at once
    made = {
        "latents": torch.cat(latents).half(),
        "starts": starts,
        "weights": _latent_weights(weight[:, 0]).half(),
        "sound": encoders.audio.embed(scene.sound.to(device), frames_of_samples(len(scene.sound), SAMPLE_RATE)).half(),
        "caption": torch.tensor(captions.index(scene.caption) if scene.caption in captions else -1),
        "reference": ((video[0, :, 0] + 1) * 127.5).round().clamp(0, 255).byte(),
        "cond": encode_window(encoders.vae, portrait.to(device))[0].half(),
    }
    if encoders.image is not None:
        made["clip"] = encoders.image.embed(encoders.image.preprocess(portrait.to(device)))[0].half()
    return {name: values.cpu() for name, values in made.items()}


def least_frames(frames: int) -> int:
    """How long a take must be, so that a window of `frames` fits beside any reference frame."""
    return 2 * frames


def _elsewhere(reference: int, frames: int, last: int, count: int, chance: torch.Generator) -> list[int]:
    """First frames of windows that do not hold the reference frame."""
    free = [start for start in range(last + 1) if not start <= reference < start + frames]
    return [free[int(choice)] for choice in torch.randint(len(free), (count,), generator=chance)]


def _latent_weights(weight: Tensor) -> Tensor:
    """Weights [W,T,H,W] at latent resolution, the frames of a latent frame averaged: [W,F,h,w], 1 on average."""
    pooled = F.avg_pool2d(weight, WAN.spatial_stride)
    later = pooled[:, 1:].unflatten(1, (-1, WAN.temporal_stride)).mean(2)
    weight = torch.cat([pooled[:, :1], later], dim=1)
    return weight / weight.mean((1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class Preparation:
    """How a folder is filled: `takes` takes in shards of `shard`, their sizes in turn; `kind` is part of their names,
    so that drawn and filmed takes can share a folder."""

    takes: int
    sizes: tuple[Size, ...] = ((128, 128),)
    frames: int = 33
    windows: int = 4
    shard: int = 16
    kind: str = ""

    def __post_init__(self) -> None:
        for side in (side for size in self.sizes for side in size):
            if side % WAN.size_multiple:
                raise InputError(f"size {side}; every side must be a multiple of {WAN.size_multiple}")

    def fill(
        self,
        folder: Path,
        scene: Callable[[int, Size], Scene],
        encoders: Encoders,
        first: int = 0,
        turn: tuple[int, int] = (0, 1),
        captions: Sequence[str] = (),
    ) -> Iterator[Path]:
        """Write the shards that are missing, from take `first` on; yields each as it is done.

        `scene` gives a take by its number, in a size; its caption is kept as its number in `captions`.
        `turn` is the number of this process, and how many share the shards out.
        """
        make_folder(folder)
        for number, start in enumerate(range(first, first + self.takes, self.shard), first // self.shard):
            if number % turn[1] != turn[0]:
                continue
            size = self.sizes[number % len(self.sizes)]
            path = folder / f"{size[0]}x{size[1]}-{self.kind}{number:05d}.safetensors"
            if not path.exists():
                takes = range(start, min(start + self.shard, first + self.takes))
                parts = (encoders, self.frames, self.windows)
                made = [prepare_take(scene(index, size), *parts, index, captions) for index in takes]
                temporary = path.with_suffix(".part")
                save_file({name: torch.stack([one[name] for one in made]).contiguous() for name in made[0]}, temporary)
                temporary.rename(path)
            yield path


def save_texts(folder: Path, texts: Sequence[Tensor], name: str = TEXTS) -> None:
    """Encoded prompts, [n,text_dim] each."""
    save_file({f"text.{index}": text.contiguous() for index, text in enumerate(texts)}, folder / name)


def _read_texts(path: Path, length: int) -> Tensor:
    """Encoded prompts as they were saved, padded with zeros: [prompts,length,text_dim]; none where there is no file."""
    texts = load_file(path) if path.exists() else {}
    padded = [F.pad(text, (0, 0, 0, length - len(text))) for text in (texts[f"text.{n}"] for n in range(len(texts)))]
    return torch.stack(padded) if padded else torch.empty(0)


class Pool:
    """Random windows of a prepared folder; what a batch holds depends on (seed, step) alone.

    The last `held` shards are held out: nothing is drawn of them but by `draw_held`.
    """

    def __init__(self, folder: Path, text_len: int, seed: int = 0, held: int = 0) -> None:
        self.shards = sorted(file for file in folder.glob("*x*-*.safetensors"))
        if not self.shards:
            raise InputError(f"{folder} holds no prepared takes; make some with `train prepare` first")
        if not 0 <= held < len(self.shards):
            raise InputError(f"{held} of {len(self.shards)} shards in {folder} to hold out; at least one is trained on")
        self.shards, self.held = self.shards[: len(self.shards) - held], self.shards[len(self.shards) - held :]
        self.texts, self.captions = (_read_texts(folder / name, text_len) for name in (TEXTS, CAPTIONS))
        self.seed = seed

    def draw(self, step: int, batch: int) -> Batch:
        """`batch` windows of one shard: `latent` [B,16,F,h,w], `weight` [B,F,h,w], `cond` [B,20 or 16,F,h,w],
        `clip` [B,S,clip_dim], `text` [B,text_len,text_dim], `reference` [B,3,1,H,W] in -1..1, `sound`
        [B,T,blocks,channels] of the whole take and `start` [B], the window's first frame in it.
        """
        return self._drawn(self.shards, batch, generator_of("pool", self.seed, step))

    def draw_held(self, number: int, batch: int) -> Batch:
        """As `draw`, of the shards that are held out: the same in every run."""
        return self._drawn(self.held, batch, generator_of("held pool", number))

    def _drawn(self, shards: Sequence[Path], batch: int, chance: torch.Generator) -> Batch:
        shard = shards[int(torch.randint(len(shards), (), generator=chance))]
        with safe_open(shard, "pt") as file:
            takes, windows = file.get_slice("latents").get_shape()[:2]
            rows = [self._row(file, takes, windows, chance) for _ in range(batch)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, file: Any, takes: int, windows: int, chance: torch.Generator) -> Batch:
        take, window, text = (int(torch.randint(n, (), generator=chance)) for n in (takes, windows, len(self.texts)))
        own = int(file.get_slice("caption")[take : take + 1]) if "caption" in file.keys() else -1  # noqa: SIM118
        prompts, number = (self.captions, own) if own >= 0 else (self.texts, text)
        prompt = prompts[number] if torch.rand((), generator=chance) < 0.5 else self.texts[0]
        read = {name: file.get_slice(name)[take].float() for name in ("cond", "reference", "sound")}
        cond, clip = read["cond"], torch.zeros(1, 1)
        if "clip" in file.keys():  # noqa: SIM118
            mask = torch.zeros(WAN.temporal_stride, *cond.shape[1:])
            mask[:, 0] = 1
            cond, clip = torch.cat([mask, cond]), file.get_slice("clip")[take].float()
        start = int(file.get_slice("starts")[take][window])
        return {
            "latent": file.get_slice("latents")[take, window].float(),
            "weight": file.get_slice("weights")[take, window].float(),
            "cond": cond,
            "clip": clip,
            "text": prompt,
            "reference": read["reference"][:, None] / 127.5 - 1,
            "sound": read["sound"],
            "start": torch.tensor(start),
        }
