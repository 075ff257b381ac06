"""One chunk: noise in, latent out."""

import hashlib
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Predict = Callable[[Tensor, float], Tensor]
"""(latent [16,F,h,w], sigma) -> the model's estimate of the clean latent [16,F,h,w]."""

NoiseSource = Callable[[int, tuple[int, ...]], Tensor]
"""(chunk index, (steps, 16, F, h, w)) -> noise of that shape: the start latent, then one per step but the last."""


def seeded_noise(seed: int) -> NoiseSource:
    """Noise that depends on (seed, chunk index) alone, drawn on the CPU: a resumed chunk gets the same."""

    def draw(index: int, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.randn(shape, generator=generator)

    return draw


def each_step(motion: Tensor, steps: int) -> Tensor:
    """Clean latents [16,k,h,w], the same in every step, or already one for each: [steps,16,k,h,w]."""
    return motion if motion.ndim == 5 else motion.expand(steps, *motion.shape)


def sample(
    predict: Predict,
    motion: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[int], None],
    fresh_noise: bool = True,
) -> Tensor:
    """Denoise one chunk from `noise` [steps,16,F,h,w]; `motion` [16,k,h,w] stays clean in front, the same in every
    step, or another in each [steps,16,k,h,w].

    After each step the estimate is noised again to the next level with fresh noise (no ODE solver: the
    student is distilled for this). Without `fresh_noise` it is Euler's step along the flow instead, for weights that
    are not distilled; only the first noise is read. `on_step` is called with the number of steps done; it may raise to
    stop.
    """
    steps = len(sigmas) - 1
    motions = each_step(motion, steps)
    clean = motions.shape[2]
    latent = noise[0].clone()
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas)):
        latent[:, :clean] = motions[step]
        estimate = predict(latent, sigma)
        if step + 1 == steps:
            latent = estimate.clone()
        elif fresh_noise:
            latent = (1 - next_sigma) * estimate + next_sigma * noise[step + 1]
        else:
            latent = estimate + next_sigma / sigma * (latent - estimate)
        on_step(step + 1)
    latent[:, :clean] = motions[-1]
    return latent
