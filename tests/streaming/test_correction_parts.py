"""How benchmarks/correction.py takes the correction apart."""

import torch

from benchmarks.correction import VARIANTS, only
from livetalk_core.streaming import correction


def test_the_parts_add_up_to_the_whole():
    motion, held = (torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    motion = 2 * motion + 1
    given = motion, correction.measure(motion), correction.measure(held), 0.5

    def change(name):
        with only(next(variant for variant in VARIANTS if variant.name == name)):
            return correction.restore(*given) - motion

    parts = [change(name) for name in ("means", "contrast", "sharpness")]
    assert all(part.abs().max() > 0.01 for part in parts)
    torch.testing.assert_close(sum(parts), change("all"), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(change("all"), correction.restore(*given) - motion)
    torch.testing.assert_close(change("joined"), torch.zeros_like(motion), atol=1e-5, rtol=0)


def test_chunks_are_joined_where_the_variant_says_so():
    shown, frames = torch.ones(3, 1, 4, 4), torch.zeros(3, 2, 4, 4)
    moved = {}
    for variant in VARIANTS:
        with only(variant):
            moved[variant.name] = bool(correction.Seam(shown, 0).close(frames, 0).any())
    assert moved == {variant.name: variant.joined for variant in VARIANTS} and not moved["off"]
