"""A song that is really sung: a voice of formants on a melody, and plucked chords and a drum that go on without it."""

import numpy as np

RATE = 16_000
BEAT_SECONDS = 0.6
FORMANTS = {"a": (800, 1200, 2600), "e": (500, 1900, 2600), "i": (300, 2300, 3000), "o": (480, 850, 2500),
            "u": (330, 750, 2300)}  # fmt: skip
WIDTHS = (80, 100, 140)
"""Hz of the formants, and how wide they are."""
SUNG = "la4 la4 le5 le5 lo6 lo6 li5 - - - - lu3 lu3 la2 la2 le1 le1 lo0 -"
"""A syllable and its note on a beat each, counted from C; `-` is a beat's rest."""
SCALE = (0, 2, 4, 5, 7, 9, 11)
CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))
"""Semitones above C; each for two beats."""
BARS_BEFORE = 4
"""Beats of the chords alone, before the voice begins."""
CLOSED = 0.12
"""The part of a beat that an l, its tongue up, takes of the vowel."""


def song(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The voice alone, and what accompanies it: samples [n] each, as loud as each other where both sound."""
    samples = round(seconds * RATE)
    voice, played = np.zeros(samples), np.zeros(samples)
    words = SUNG.split()
    for beat in range(int(seconds / BEAT_SECONDS) + 1):
        sung = words[(beat - BARS_BEFORE) % len(words)] if beat >= BARS_BEFORE else "-"
        if sung != "-":
            _add(voice, syllable(sung[1], 220 * 2 ** (semitone(int(sung[2])) / 12)), beat)
        for step in CHORDS[beat // 2 % len(CHORDS)]:
            _add(played, pluck(130.8 * 2 ** (step / 12)), beat)
        _add(played, 2 * drum(), beat)
    return 0.5 * voice / np.abs(voice).max(), played * _loudness(voice) / _loudness(played) * 0.5 / np.abs(voice).max()


def semitone(note: int) -> int:
    """Semitones above C of a note of the scale, which goes on above its seventh."""
    return 12 * (note // len(SCALE)) + SCALE[note % len(SCALE)]


def syllable(vowel: str, pitch: float) -> np.ndarray:
    """An l and a vowel for nine tenths of a beat, with a singer's vibrato: harmonics under the vowel's formants."""
    times = np.arange(round(0.9 * BEAT_SECONDS * RATE)) / RATE
    sung = pitch * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * times))
    phase = 2 * np.pi * np.cumsum(sung) / RATE
    sound = sum(
        _strength(number * pitch, vowel) / number * np.sin(number * phase) for number in range(1, int(7000 / pitch))
    )
    opened = np.clip(times / (CLOSED * BEAT_SECONDS), 0.15, 1) * np.clip((times[-1] - times) / 0.05, 0, 1)
    return sound * opened


def _strength(frequency: float, vowel: str) -> float:
    heights = (1.0, 0.6, 0.3)
    return sum(
        height / (1 + ((frequency - middle) / width) ** 2)
        for middle, width, height in zip(FORMANTS[vowel], WIDTHS, heights, strict=True)
    )


def pluck(pitch: float) -> np.ndarray:
    """A string that was plucked: harmonics that die away."""
    times = np.arange(round(1.5 * BEAT_SECONDS * RATE)) / RATE
    return sum(
        np.exp(-2.0 * number * times) / number * np.sin(2 * np.pi * number * pitch * times) for number in range(1, 8)
    )


def drum() -> np.ndarray:
    """A beat of a drum: a low tone that falls, and noise."""
    times = np.arange(round(0.25 * RATE)) / RATE
    noise = np.random.default_rng(1).normal(size=len(times)) * np.exp(-40 * times)
    return np.exp(-14 * times) * np.sin(2 * np.pi * (50 * times + 3 * (1 - np.exp(-30 * times)))) + 0.3 * noise


def _add(track: np.ndarray, sound: np.ndarray, beat: int) -> None:
    start = round(beat * BEAT_SECONDS * RATE)
    room = max(0, min(len(sound), len(track) - start))
    track[start : start + room] += sound[:room]


def _loudness(sound: np.ndarray) -> float:
    """The root mean square of what sounds."""
    loud = sound[np.abs(sound) > 0.05 * np.abs(sound).max()]
    return float(np.sqrt(np.square(loud).mean()))
