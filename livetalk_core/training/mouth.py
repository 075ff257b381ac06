"""The stated function from sound to mouth: what the drawn faces do, and what lip sync is measured against.

Per frame, from the power spectrum of 80 ms (Hann window) around the frame's middle, of the standardised sound:

- opening: the amplitude in the voiced band (200-1200 Hz), less a floor, compressed by a power and limited to 0..1;
- width: the spectral tilt, log of the power in 1.8-5 kHz over that in the voiced band, squashed to -1 (rounded, as
  in "oo") .. 1 (spread, as in "ee", "s"), and drawn to 0 where there is hardly any sound.

Both are smoothed over three frames (1/4, 1/2, 1/4), as lips cannot jump.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..shapes import SAMPLE_RATE, SAMPLES_PER_FRAME

WINDOW = 2 * SAMPLES_PER_FRAME
VOICED_HZ = (200.0, 1200.0)
BRIGHT_HZ = (1800.0, 5000.0)
FLOOR, FULL, POWER = 0.06, 1.15, 0.7
"""Amplitude (the standardised sound has 1 in all bands) that opens nothing, that opens fully, and the curve between."""
TILT_MIDDLE, TILT_SPREAD = -2.2, 1.6
"""Natural logarithm of the power ratio that gives width 0, and the deviation that gives tanh(1)."""


class Mouth(NamedTuple):
    """The mouth's course, one value a frame: opening 0 (closed) .. 1, width -1 (rounded) .. 1 (spread); [..., T]."""

    opening: Tensor
    width: Tensor


def band_power(sound: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Mean-square amplitude in the two bands for frames 0..frames-1 of 16 kHz sound [..., S]: two of [..., frames]."""
    missing = max(0, frames * SAMPLES_PER_FRAME - sound.shape[-1])
    margin = (WINDOW - SAMPLES_PER_FRAME) // 2
    padded = F.pad(sound, (margin, missing + margin))
    windows = padded.unfold(-1, WINDOW, SAMPLES_PER_FRAME)[..., :frames, :]
    hann = torch.hann_window(WINDOW, device=sound.device)
    power = torch.fft.rfft(windows * hann).abs().square() * (2 / (WINDOW * hann.square().sum()))
    hertz = torch.arange(power.shape[-1], device=sound.device) * (SAMPLE_RATE / WINDOW)
    voiced, bright = (((hertz >= low) & (hertz < high)).to(power) for low, high in (VOICED_HZ, BRIGHT_HZ))
    return power @ voiced, power @ bright


def smooth(values: Tensor) -> Tensor:
    """[..., T] averaged over neighbouring frames with weights 1/4, 1/2, 1/4; the ends are repeated."""
    padded = torch.cat([values[..., :1], values, values[..., -1:]], dim=-1)
    return padded[..., :-2] / 4 + padded[..., 1:-1] / 2 + padded[..., 2:] / 4


def mouth_of(sound: Tensor, frames: int) -> Mouth:
    """The mouth that speaks `sound` ([..., S], 16 kHz, standardised): `frames` values of each."""
    voiced, bright = band_power(sound, frames)
    loud = ((voiced.sqrt() - FLOOR) / (FULL - FLOOR)).clamp(0, 1)
    tilt = torch.log((bright + 1e-6) / (voiced + 1e-6))
    heard = ((voiced + bright).sqrt() / (2 * FLOOR)).clamp(0, 1)
    width = torch.tanh((tilt - TILT_MIDDLE) / TILT_SPREAD) * heard
    return Mouth(smooth(loud**POWER), smooth(width))


def standardize(sound: Tensor) -> Tensor:
    """[..., S] -> zero mean, unit variance over the recording, as the audio encoder hears it (its loudness cancels)."""
    centred = sound - sound.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()
