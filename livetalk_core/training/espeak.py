"""Synthetic speech for the drawn faces: a folder of WAV files, made by espeak-ng (a Debian package).

Two sets of voices that share nobody: files `train-*.wav` and `held-*.wav`.
"""

import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from ..errors import InputError
from ..files import make_folder
from ..shapes import SAMPLE_RATE
from .words import WORDS

TRAIN_VARIANTS = ("m1", "m2", "m3", "m5", "m7", "f1", "f2", "f4", "klatt2", "klatt4", "adam", "linda", "john", "anika")
HELD_VARIANTS = ("m4", "m8", "f3", "f5", "klatt3", "belinda", "ed")
HELD_SHARE = 0.1
"""Part of the minutes that goes to the held-out voices."""


class Utterance(NamedTuple):
    """What is said and how: words, language and voice, words a minute, pitch 0..99."""

    text: str
    voice: str
    rate: int
    pitch: int


def utterances(seed: int, variants: tuple[str, ...]) -> Iterator[Utterance]:
    """Random sentences without end, in all languages and the given voice variants."""
    chance = random.Random(f"{seed} {variants}")
    while True:
        language = chance.choice(list(WORDS))
        phrases = [" ".join(chance.choices(WORDS[language].split(), k=chance.randint(3, 7))) for _ in range(3)]
        text = ", ".join(phrases[: chance.randint(1, 3)]) + "."
        yield Utterance(text, f"{language}+{chance.choice(variants)}", chance.randint(115, 215), chance.randint(15, 85))


def speak(utterance: Utterance) -> np.ndarray:
    """int16 [S] at 16 kHz."""
    text, voice, rate, pitch = utterance
    with tempfile.TemporaryDirectory() as folder:  # to a pipe, espeak-ng writes a header without the length
        file = Path(folder, "speech.wav")
        command = ["espeak-ng", "-v", voice, "-s", str(rate), "-p", str(pitch), "-w", str(file), text]
        subprocess.run(command, check=True, capture_output=True)
        native, samples = wavfile.read(file)
    resampled = resample_poly(samples / 32768, SAMPLE_RATE, native)
    return np.round(resampled / max(1e-3, np.abs(resampled).max()) * 0.8 * 32767).astype(np.int16)


def check_espeak() -> None:
    """Raise `InputError` where espeak-ng is missing."""
    if shutil.which("espeak-ng") is None:
        raise InputError("espeak-ng is not installed; install it (Debian: apt install espeak-ng) or give recordings")


def make_corpus(folder: Path, minutes: float, seed: int) -> int:
    """Fill a folder with `minutes` of speech (about 1.9 MB each); returns the number of files."""
    check_espeak()
    make_folder(folder)
    parts = {"train": (TRAIN_VARIANTS, 1 - HELD_SHARE), "held": (HELD_VARIANTS, HELD_SHARE)}
    return sum(_fill(folder, name, variants, share * minutes * 60, seed) for name, (variants, share) in parts.items())


def _fill(folder: Path, name: str, variants: tuple[str, ...], seconds: float, seed: int) -> int:
    count = done = 0
    for utterance in utterances(seed, variants):
        if done >= seconds * SAMPLE_RATE:
            break
        samples = speak(utterance)
        wavfile.write(folder / f"{name}-{count:04d}-{utterance.voice}.wav", SAMPLE_RATE, samples)
        done, count = done + len(samples), count + 1
    return count
