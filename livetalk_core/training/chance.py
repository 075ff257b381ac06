"""Explicit randomness: a name and numbers in, a generator out. The same on every machine."""

import hashlib

import torch
from torch import Tensor


def seed_of(*names: int | str) -> int:
    """A seed of 63 bits that depends on all of `names`."""
    digest = hashlib.blake2b(":".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*names: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `names`."""
    return torch.Generator(device).manual_seed(seed_of(*names))


def uniform(chance: torch.Generator, low: float, high: float) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=chance))


def spread(chance: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers in [low, high), of a shape."""
    return low + (high - low) * torch.rand(shape, generator=chance)


def happens(probability: float, generator: torch.Generator) -> bool:
    """Whether something of a probability does."""
    return float(torch.rand((), generator=generator)) < probability
