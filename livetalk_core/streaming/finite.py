"""Whether a chunk's numbers are finite: summed where they are made, read once, with what the chunk hands on.

A sum is infinite or NaN as soon as one of its terms is. It stays on the device that made the numbers, so that the host
waits for none of them before the chunk's end, when it reads the motion latents anyway.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError, NumbersError
from ..shapes import FRAMES_PER_SECOND
from .plan import Chunk

CAUSES = {
    "sound features": "the audio encoder's weights are damaged, or of another model",
    "motion latents it starts from": "what they were saved in is damaged: render anew, without resuming",
    "latents": "an inexact attention kernel, FP8, float16, a LoRA or a damaged file of weights; try PyTorch's own "
    "attention (--attention sdpa), bfloat16, and no LoRA",
    "frames": "the VAE in float16, or a damaged file of its weights; try bfloat16",
    "matched colours": "the portrait or the frames are of one colour; try without matching (--color-correction 0)",
    "images": "the upscaler, or another node behind the chunk, in float16 or of damaged weights; leave it out",
    "motion latents it hands on": "the VAE in float16, or a damaged file of its weights; try bfloat16",
}
"""What a chunk passes through, in order, and why it may not be finite."""
SOUND, START, LATENTS, FRAMES, COLORS, IMAGES, END = CAUSES

AVATAR_CAUSES = {
    "portrait": "the image holds such pixels: choose another, or look at the nodes before it",
    "prompt's tokens": "the text encoder overflows in float16, or its file is damaged; try bfloat16",
    "portrait's tokens": "the vision encoder's file is damaged; get it again",
    "portrait's latent": "the VAE in float16, or a damaged file of its weights; try bfloat16",
}
"""What an avatar is made of, in the order in which it is made."""


class Watch:
    """The sums of what one chunk passes through."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._sums: dict[str, list[Tensor]] = {stage: [] for stage in CAUSES}

    def see(self, stage: str, numbers: Tensor) -> Tensor:
        """Add up the numbers of a stage, and hand them on."""
        self._sums[stage].append(numbers.sum(dtype=torch.float32))
        return numbers

    def read(self, *kept: Tensor) -> list[Tensor]:
        """What is kept of the chunk, on the CPU in float32, by one copy for all of it and for the sums.

        Raises `NumbersError` where a stage was not finite.
        """
        stages = [(stage, total) for stage, totals in self._sums.items() for total in totals]
        there = [(stage, total) for stage, total in stages if total.device.type != "cpu"]
        here = [(stage, float(total)) for stage, total in stages if total.device.type == "cpu"]
        flat = [torch.empty(0), *(part.flatten().float() for part in (*kept, *(total for _, total in there)))]
        *parts, sums = torch.cat(flat[1:] or flat).cpu().split([*(part.numel() for part in kept), len(there)])
        self._check([*here, *zip((stage for stage, _ in there), sums.tolist(), strict=True)])
        return [part.view(tensor.shape).clone() for part, tensor in zip(parts, kept, strict=True)]

    def _check(self, sums: list[tuple[str, float]]) -> None:
        faulty = {stage for stage, total in sums if not math.isfinite(total)}
        if not faulty:
            return
        stage = next(stage for stage in CAUSES if stage in faulty)
        chunk, seconds = self._chunk, (self._chunk.start + self._chunk.skip) / FRAMES_PER_SECOND
        raise NumbersError(
            f"chunk {chunk.index + 1} (from {seconds:.2f} s on): its {stage} are not finite (NaN or infinity); "
            f"likely: {CAUSES[stage]}"
        )


def check_avatar(*parts: tuple[str, Tensor]) -> None:
    """Raise `InputError` for the first of an avatar's parts that is not finite; their names are `AVATAR_CAUSES`'."""
    for name, numbers in parts:
        if not math.isfinite(float(numbers.sum(dtype=torch.float32))):
            raise InputError(
                f"the {name} must be finite numbers, and some are NaN or infinite; likely: {AVATAR_CAUSES[name]}"
            )
