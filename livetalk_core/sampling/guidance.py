"""Guidance of weights that are not distilled, by prompt and by sound."""

from collections.abc import Callable

from torch import Tensor

from ..config import Guidance
from .chunk import Predict

Estimate = Callable[[Tensor, float, bool, bool], Tensor]
"""(latent, sigma, with its prompt?, with its sound?) -> the model's estimate of the clean latent. Without: the negative
prompt, or silent features (zeros)."""


def guided(estimate: Estimate, guidance: Guidance | None) -> Predict:
    """The estimate, guided as InfiniteTalk's is; only the evaluations that count are made.

    nothing + text * (full - sound alone) + audio * (sound alone - nothing); where text is 1, the prompt stays in both:
    prompt alone + audio * (full - prompt alone).
    """
    text, audio = (1.0, 1.0) if guidance is None else (guidance.text, guidance.audio)

    def predict(latent: Tensor, sigma: float) -> Tensor:
        full = estimate(latent, sigma, True, True)
        if text == 1:
            return full if audio == 1 else estimate(latent, sigma, True, False).lerp(full, audio)
        sound_alone = estimate(latent, sigma, False, True)
        if audio == 1:
            return sound_alone.lerp(full, text)
        nothing = estimate(latent, sigma, False, False)
        return nothing + text * (full - sound_alone) + audio * (sound_alone - nothing)

    return predict
