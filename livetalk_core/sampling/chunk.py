"""One chunk: noise in, latent out."""

import hashlib
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Predict = Callable[[Tensor, float], Tensor]
"""(latent [C,F,h,w], sigma) -> the model's estimate of the clean latent [C,F,h,w]."""

NoiseSource = Callable[[int, tuple[int, ...]], Tensor]
"""(chunk index, (steps, C, F, h, w)) -> noise of that shape: the start latent, then one per step but the last."""

Advance = Callable[[Tensor, Tensor, float, float, Tensor], Tensor]
"""(latent, estimate of the clean one, sigma, next sigma, fresh noise) -> the latent at the next level."""


def renoise(_: Tensor, estimate: Tensor, _sigma: float, next_sigma: float, noise: Tensor) -> Tensor:
    """The estimate noised again with fresh noise: no ODE solver, since the students are distilled for this."""
    return (1 - next_sigma) * estimate + next_sigma * noise


def follow_flow(latent: Tensor, estimate: Tensor, sigma: float, next_sigma: float, _: Tensor) -> Tensor:
    """Euler's step along the flow, for weights that are not distilled."""
    return estimate + next_sigma / sigma * (latent - estimate)


def cross_bridge(latent: Tensor, estimate: Tensor, sigma: float, next_sigma: float, noise: Tensor) -> Tensor:
    """LeapTalk's step along its bridge from the portrait's latents: Euler's, and noise that is gone at both ends."""
    spread = ((sigma - next_sigma) * next_sigma / sigma) ** 0.5
    return follow_flow(latent, estimate, sigma, next_sigma, noise) + spread * noise


def advance_of(guided: bool, bridge: bool) -> Advance:
    """How a stream's latents go from level to level: `guided` weights are not distilled; `bridge` is LeapTalk's."""
    if bridge:
        return cross_bridge
    return follow_flow if guided else renoise


def read_noise(noise: Tensor, advance: Advance) -> Tensor:
    """What of a chunk's noise [steps,C,F,h,w] is read, the same noise in every step not being sent around."""
    return noise[:1] if advance is follow_flow else noise


def seeded_noise(seed: int, use: str = "") -> NoiseSource:
    """Noise that depends on (seed, chunk index) alone, drawn on the CPU: a resumed chunk gets the same.

    Noise for another `use` is independent of it.
    """

    def draw(index: int, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.blake2b(f"{use}{seed}:{index}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.randn(shape, generator=generator)

    return draw


def each_step(motion: Tensor, steps: int) -> Tensor:
    """Clean latents [C,k,h,w], the same in every step, or already one for each: [steps,C,k,h,w]."""
    return motion if motion.ndim == 5 else motion.expand(steps, *motion.shape)


def sample(
    predict: Predict,
    motion: Tensor,
    noise: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[int], None],
    advance: Advance = renoise,
) -> Tensor:
    """Denoise one chunk from `noise` [n,C,F,h,w]; `motion` [C,k,h,w] stays clean in front, the same in every step, or
    another in each [steps,C,k,h,w].

    The first of the noise is what the chunk starts from; `advance` makes each further latent of the model's estimate,
    and may read one more of the noise each time. `on_step` is called with the number of steps done; it may raise to
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
        else:
            latent = advance(latent, estimate, sigma, next_sigma, noise[min(step + 1, len(noise) - 1)])
        on_step(step + 1)
    latent[:, :clean] = motions[-1]
    return latent
