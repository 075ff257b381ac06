"""Prepared takes: everything that frozen parts make of a take, computed once, so that training runs neither VAE nor
encoders.

A folder of shards, `HEIGHTxWIDTH-NUMBER.safetensors`, each with the same tensors for some takes (A takes, W windows a
take, F latent frames, T frames of a take), and `texts.safetensors` with encoded prompts:

- latents [A,W,16,F,h,w]: windows of a chunk's length, the first of which starts with the reference frame;
- starts [A,W]: their first frames; weights [A,W,F,h,w]: how much each point counts, 1 on average;
- sound [A,T,blocks,channels]: audio features of the whole take;
- reference [A,3,H,W]: the reference frame, bytes; cond [A,16,F,h,w]: its condition latent; clip [A,S,clip_dim].
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
from ..models.audio_encoder import AudioEncoder
from ..models.image_encoder import ImageEncoder
from ..models.vae import VAE
from ..shapes import SAMPLE_RATE, WAN, frames_of_samples
from .chance import generator_of
from .data import Footage, Size
from .trainer import Batch
from .vae import moments

TEXTS = "texts.safetensors"


class Scene(Protocol):
    """One person speaking, drawn or filmed: `frames` that can be shown, and the standardised 16 kHz `sound` [S], at
    least as long and the same length in all scenes of a shard."""

    @property
    def frames(self) -> int: ...

    @property
    def sound(self) -> Tensor: ...

    def film(self, index: Tensor) -> Footage:
        """The frames of windows `index` [W,T], each ascending."""
        ...


class Encoders(NamedTuple):
    """The frozen parts."""

    vae: VAE
    audio: AudioEncoder
    image: ImageEncoder

    def to(self, device: torch.device) -> "Encoders":
        """The same on a device."""
        return Encoders(self.vae.to(device), self.audio.to(device), self.image.to(device))


@torch.inference_mode()
def encode_window(vae: VAE, frames_BCTHW: Tensor) -> Tensor:
    """Frames in -1..1 -> normalised latents [B,16,F,h,w] in float32: `VAE.encode`, all later frames in one group."""
    raw = moments(vae, frames_BCTHW)[0]
    mean, std = raw.new_tensor([vae.config.latent_mean, vae.config.latent_std])[:, None, :, None, None, None]
    return (raw - mean) / std


@torch.inference_mode()
def prepare_take(scene: Scene, encoders: Encoders, frames: int, windows: int, seed: int) -> Batch:
    """One take's tensors as in a shard, but for the first dimension. It must be `least_frames` long."""
    chance = generator_of("windows", seed)
    last = scene.frames - frames
    reference = int(torch.randint(last + 1, (), generator=chance))
    starts = torch.tensor([reference, *_elsewhere(reference, frames, last, windows - 1, chance)])
    video, weight = scene.film(starts[:, None] + torch.arange(frames))
    portrait = torch.zeros_like(video[:1])
    portrait[:, :, 0] = video[0, :, 0]
    device = next(encoders.vae.parameters()).device
    latents = [encode_window(encoders.vae, window.to(device)) for window in video.split(1)]  # faster than all at once
    made = {
        "latents": torch.cat(latents).half(),
        "starts": starts,
        "weights": _latent_weights(weight[:, 0]).half(),
        "sound": encoders.audio.embed(scene.sound.to(device), frames_of_samples(len(scene.sound), SAMPLE_RATE)).half(),
        "reference": ((video[0, :, 0] + 1) * 127.5).round().clamp(0, 255).byte(),
        "cond": encode_window(encoders.vae, portrait.to(device))[0].half(),
        "clip": encoders.image.embed(encoders.image.preprocess(portrait.to(device)))[0].half(),
    }
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
    ) -> Iterator[Path]:
        """Write the shards that are missing, from take `first` on; yields each as it is done.

        `scene` gives a take by its number, in a size. `turn` is the number of this process, and how many share the
        shards out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(first, first + self.takes, self.shard), first // self.shard):
            if number % turn[1] != turn[0]:
                continue
            size = self.sizes[number % len(self.sizes)]
            path = folder / f"{size[0]}x{size[1]}-{self.kind}{number:05d}.safetensors"
            if not path.exists():
                takes = range(start, min(start + self.shard, first + self.takes))
                made = [prepare_take(scene(index, size), encoders, self.frames, self.windows, index) for index in takes]
                temporary = path.with_suffix(".part")
                save_file({name: torch.stack([one[name] for one in made]).contiguous() for name in made[0]}, temporary)
                temporary.rename(path)
            yield path


def save_texts(folder: Path, texts: Sequence[Tensor]) -> None:
    """Encoded prompts, [n,text_dim] each."""
    save_file({f"text.{index}": text.contiguous() for index, text in enumerate(texts)}, folder / TEXTS)


class Pool:
    """Random windows of a prepared folder; what a batch holds depends on (seed, step) alone."""

    def __init__(self, folder: Path, text_len: int, seed: int = 0) -> None:
        self.shards = sorted(file for file in folder.glob("*x*-*.safetensors"))
        if not self.shards:
            raise InputError(f"{folder} holds no prepared takes; make some with `train prepare` first")
        texts = load_file(folder / TEXTS).values()
        self.texts = torch.stack([F.pad(text, (0, 0, 0, text_len - len(text))) for text in texts])
        self.seed = seed

    def draw(self, step: int, batch: int) -> Batch:
        """`batch` windows of one shard: `latent` [B,16,F,h,w], `weight` [B,F,h,w], `cond` [B,20,F,h,w],
        `clip` [B,S,clip_dim], `text` [B,text_len,text_dim], `reference` [B,3,1,H,W] in -1..1, `sound`
        [B,T,blocks,channels] of the whole take and `start` [B], the window's first frame in it.
        """
        chance = generator_of("pool", self.seed, step)
        shard = self.shards[int(torch.randint(len(self.shards), (), generator=chance))]
        with safe_open(shard, "pt") as file:
            takes, windows = file.get_slice("latents").get_shape()[:2]
            rows = [self._row(file, takes, windows, chance) for _ in range(batch)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, file: Any, takes: int, windows: int, chance: torch.Generator) -> Batch:
        take, window, text = (int(torch.randint(n, (), generator=chance)) for n in (takes, windows, len(self.texts)))
        text = text if torch.rand((), generator=chance) < 0.5 else 0
        read = {name: file.get_slice(name)[take].float() for name in ("cond", "clip", "reference", "sound")}
        mask = torch.zeros(WAN.temporal_stride, *read["cond"].shape[1:])
        mask[:, 0] = 1
        start = int(file.get_slice("starts")[take][window])
        return {
            "latent": file.get_slice("latents")[take, window].float(),
            "weight": file.get_slice("weights")[take, window].float(),
            "cond": torch.cat([mask, read["cond"]]),
            "clip": read["clip"],
            "text": self.texts[text],
            "reference": read["reference"][:, None] / 127.5 - 1,
            "sound": read["sound"],
            "start": torch.tensor(start),
        }
