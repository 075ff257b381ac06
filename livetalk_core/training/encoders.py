"""Training of the small audio and image encoders: each learns to tell what its input holds, then stays frozen.

The audio encoder's every layer must give, through a linear map, the sound's spectrum at each video frame (log power in
bands, twice a frame) and the course of the mouth. The image encoder's class token must give the face's looks, its
patch tokens the colours of their patches.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.audio_encoder import AudioEncoder
from ..models.image_encoder import ImageEncoder
from ..shapes import SAMPLE_RATE, SAMPLES_PER_FRAME
from .chance import generator_of
from .data import TakeSource, video
from .looks import Looks, draw_looks
from .mouth import mouth_of
from .trainer import Batch, Losses, Task

BANDS, BAND_HZ = 24, (80.0, 7600.0)
HALF = SAMPLES_PER_FRAME // 2
PATCH_COLORS = 4
"""An image patch is described by this many colours a side."""


@dataclass
class AudioTask(Task):
    """Learns `encoder` with linear heads that are thrown away; `clips` takes a batch."""

    encoder: AudioEncoder
    source: TakeSource
    clips: int = 2

    def __post_init__(self) -> None:
        heads = [nn.Linear(self.encoder.channels, 2 * BANDS + 2) for _ in range(self.encoder.blocks)]
        self.networks: dict[str, Any] = {"audio_encoder": self.encoder, "heads": nn.ModuleList(heads)}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "encoder": None, "networks": {}}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("audio_encoder", "heads")

    def batch(self, step: int) -> Batch:
        """`sound` [B,S] and `target` [B,T,2*BANDS+2]."""
        sounds = [self.source.take(step * self.clips + clip).sound for clip in range(self.clips)]
        return {"sound": torch.stack(sounds), "target": torch.stack([heard(s, self.source.frames) for s in sounds])}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        encoder, heads = self.networks["audio_encoder"], self.networks["heads"]
        states = torch.stack([encoder.embed(sound, self.source.frames) for sound in batch["sound"]])
        predicted = torch.stack([head(states[:, :, layer]) for layer, head in enumerate(heads)])
        error = (predicted - batch["target"]).square().mean((0, 1, 2))
        return {"loss": error[: 2 * BANDS].mean() + error[2 * BANDS :].sum(), "opening": error[-2], "width": error[-1]}


def heard(sound: Tensor, frames: int) -> Tensor:
    """What a frame's sound holds: [S] -> [frames, 2*BANDS+2], about -1..1: bands of both halves, mouth's course."""
    windows = F.pad(sound, (HALF // 2, HALF // 2 + HALF)).unfold(0, 2 * HALF, HALF)[: 2 * frames]
    power = torch.fft.rfft(windows * torch.hann_window(2 * HALF)).abs().square()
    bands = (power @ _bands(power.shape[1]) / HALF + 1e-5).log() / 5
    mouth = mouth_of(sound, frames)
    return torch.cat([bands.unflatten(0, (frames, 2)).flatten(1), mouth.opening[:, None], mouth.width[:, None]], dim=1)


def _bands(bins: int) -> Tensor:
    """Triangles evenly spread over the logarithm of the frequency: [bins, BANDS]."""
    low, high = (torch.tensor(hertz).log() for hertz in BAND_HZ)
    place = (torch.arange(bins) * (SAMPLE_RATE / 2 / (bins - 1))).clamp_min(1).log()
    step = (high - low) / (BANDS + 1)
    middles = low + step * torch.arange(1, BANDS + 1)
    return (1 - ((place[:, None] - middles) / step).abs()).clamp_min(0)


@dataclass
class ImageTask(Task):
    """Learns `encoder` with linear heads that are thrown away; `faces` pictures a batch."""

    encoder: ImageEncoder
    source: TakeSource
    faces: int = 8
    size: int = 128

    def __post_init__(self) -> None:
        looks = describe(draw_looks([("looks", index) for index in range(256)]))
        self.mean, self.deviation = looks.mean(0), looks.std(0) + 1e-3
        dim = self.encoder.config.dim
        heads = {"face": nn.Linear(dim, looks.shape[1]), "patch": nn.Linear(dim, 3 * PATCH_COLORS**2)}
        self.networks: dict[str, Any] = {"image_encoder": self.encoder, "heads": nn.ModuleDict(heads)}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "encoder": None, "networks": {}}

    def trains(self, step: int) -> tuple[str, ...]:
        """See `Task`."""
        return ("image_encoder", "heads")

    def batch(self, step: int) -> Batch:
        """`frame` [B,3,1,H,W] in -1..1 and `looks` [B,n] around 0."""
        takes = [self.source.take(step * self.faces + face) for face in range(self.faces)]
        chance = generator_of("image", self.source.seed, step)
        index = torch.randint(self.source.frames, (self.faces, 1), generator=chance)
        looks = torch.cat([describe(take.looks) for take in takes])
        return {"frame": video(takes, index, (self.size, self.size)), "looks": (looks - self.mean) / self.deviation}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Losses:
        """See `Task`."""
        encoder, heads = self.networks["image_encoder"], self.networks["heads"]
        pixels = encoder.preprocess(batch["frame"])
        tokens = encoder.embed(pixels)
        side = PATCH_COLORS * encoder.config.image_size // encoder.config.patch_size
        colors = F.interpolate(pixels, (side, side), mode="area")
        patches = F.unfold(colors, PATCH_COLORS, stride=PATCH_COLORS).transpose(1, 2)
        face = (heads["face"](tokens[:, 0]) - batch["looks"]).square().mean()
        patch = (heads["patch"](tokens[:, 1:]) - patches).square().mean()
        return {"loss": face + patch, "face": face, "patch": patch}


def describe(looks: Looks) -> Tensor:
    """All numbers of some faces: [B,n]."""
    return torch.cat([getattr(looks, field.name).reshape(len(looks), -1) for field in fields(looks)], dim=1)
