"""Guidance: the formula by hand, and no evaluation that does not count."""

import pytest
import torch

from livetalk_core.config import Guidance
from livetalk_core.errors import InputError
from livetalk_core.sampling.chunk import follow_flow, sample, seeded_noise
from livetalk_core.sampling.guidance import guided

ANSWERS = {(True, True): 7.0, (True, False): 3.0, (False, True): 2.0, (False, False): -1.0}
"""What the model would say with (prompt, sound)."""


class Model:
    """Says its answer, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, latent: torch.Tensor, sigma: float, text: bool, sound: bool) -> torch.Tensor:
        self.asked.append((text, sound))
        return torch.full_like(latent, ANSWERS[text, sound])


@pytest.mark.parametrize(
    ("guidance", "expected", "evaluations"),
    [
        (None, 7.0, 1),
        (Guidance(1, 1), 7.0, 1),
        (Guidance(5, 4), -1 + 5 * (7 - 2) + 4 * (2 - -1), 3),
        (Guidance(1, 2), 3 + 2 * (7 - 3), 2),
        (Guidance(5, 1), 2 + 5 * (7 - 2), 2),
        (Guidance(1, 0), 3.0, 2),
    ],
)
def test_the_formula_and_its_evaluations(guidance, expected, evaluations):
    model = Model()
    found = guided(model, guidance)(torch.zeros(16, 2, 2, 2), 0.5)
    assert torch.equal(found, torch.full_like(found, expected))
    assert len(set(model.asked)) == len(model.asked) == evaluations


def test_without_fresh_noise_a_step_is_eulers():
    target, seen = torch.full((16, 2, 2, 2), 3.0), []

    def predict(latent, sigma):
        seen.append(latent.clone())
        return target

    noise = seeded_noise(0)(0, (1, 16, 2, 2, 2))
    latent = sample(predict, torch.zeros(16, 1, 2, 2), noise, (1.0, 0.6, 0.0), lambda _: None, follow_flow)
    velocity = noise[0] - target  # of the straight flow from the target to the noise
    torch.testing.assert_close(seen[1][:, 1:], (noise[0] + (0.6 - 1.0) * velocity)[:, 1:])
    torch.testing.assert_close(latent[:, 1:], target[:, 1:])


@pytest.mark.parametrize(("text", "audio"), [(-1, 1), (1, 101), (float("nan"), 1)])
def test_scales_out_of_range_are_refused(text, audio):
    with pytest.raises(InputError, match="needs 0 to 100"):
        Guidance(text, audio)
