"""Speech to train on: a folder of recordings, varied as it is drawn."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..files import check_readable, files_below
from ..shapes import SAMPLE_RATE
from .chance import generator_of, uniform
from .mouth import standardize

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus"}
PAUSE_SECONDS = (0.1, 0.9)
SPEED = (0.88, 1.14)
TILT = (-0.35, 0.35)
"""First-order filter coefficient: darker (-) or brighter (+) than recorded."""
NOISE = (0.0, 0.02)
"""Amplitude of the added noise against a sound of 1."""


@dataclass(frozen=True)
class SpeechFolder:
    """Recordings in memory, int16 at 16 kHz each: a list of [S]."""

    recordings: list[np.ndarray]

    @classmethod
    def open(cls, folder: Path, held: bool = False) -> "SpeechFolder":
        """All recordings of a folder, or one file. Where it holds the two sets of `espeak.py`, those of one of them."""
        check_readable(folder, "speech", "a recording, or a folder of them,", InputError, folders=True)
        files = [folder] if folder.is_file() else files_below(folder, SUFFIXES)
        prefix = "held-" if held else "train-"
        files = [file for file in files if file.name.startswith(prefix)] or files
        if not files:
            raise InputError(f"{folder} holds no recordings; make some (`train speech`) or add yours")
        return cls([_read(file) for file in files])

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return sum(map(len, self.recordings)) / SAMPLE_RATE

    def draw(self, seed: tuple[int | str, ...], samples: int, vary: bool = True) -> Tensor:
        """Standardised sound [samples]: recordings in random order with pauses between; depends on the seed alone.

        `vary` changes speed with pitch, colour and noise: voices beyond those recorded.
        """
        chance = generator_of("speech", *seed)
        parts: list[Tensor] = []
        while sum(map(len, parts)) < samples:
            pause = int(uniform(chance, *PAUSE_SECONDS) * SAMPLE_RATE)
            choice = int(torch.randint(len(self.recordings), (), generator=chance))
            recording = torch.from_numpy(self.recordings[choice].astype(np.float32) / 32768)
            parts += [torch.zeros(pause), _resampled(recording, uniform(chance, *SPEED)) if vary else recording]
        sound = standardize(torch.cat(parts)[:samples])
        return _coloured(sound, chance) if vary else sound


def _resampled(sound: Tensor, speed: float) -> Tensor:
    length = int(len(sound) / speed)
    return F.interpolate(sound[None, None], size=length, mode="linear", align_corners=False)[0, 0]


def _coloured(sound: Tensor, chance: torch.Generator) -> Tensor:
    tilt, noise = uniform(chance, *TILT), uniform(chance, *NOISE)
    before = F.pad(sound, (1, 0))[:-1]
    return standardize(sound - tilt * before + noise * torch.randn(len(sound), generator=chance))


def _read(file: Path) -> np.ndarray:
    """int16 [S] at 16 kHz; WAV at 16 kHz without a media library, anything else through PyAV."""
    if file.suffix.lower() == ".wav":
        with suppress(ValueError):  # of a coding that scipy does not know, or damaged: PyAV reads or names it
            rate, samples = wavfile.read(file)
            if rate == SAMPLE_RATE and samples.dtype == np.int16 and samples.ndim == 1 and len(samples):
                return samples
    from ..media.audio import open_audio  # here, so that machines without PyAV can train on 16 kHz WAV

    source = open_audio(file)
    total = int(source.seconds * SAMPLE_RATE)
    return np.round(source.read(0, total, SAMPLE_RATE, mono=True)[0].clip(-1, 1) * 32767).astype(np.int16)
