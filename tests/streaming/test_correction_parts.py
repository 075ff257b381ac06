"""How benchmarks/correction.py takes the correction apart."""

import torch

from benchmarks.correction import VARIANTS, only
from livetalk_core.streaming import correction, joining


def test_the_parts_add_up_to_the_whole():
    drift = 1 + torch.rand(16, correction.PARTS, generator=torch.Generator().manual_seed(0))

    def corrected(name):
        with only(next(variant for variant in VARIANTS if variant.name == name)):
            return correction.passed(drift, 0.1).int()

    parts = [corrected(name) for name in ("means", "contrast", "sharpness", "regions")]
    assert all(part.any() for part in parts)
    assert torch.equal(sum(parts), corrected("all"))
    assert torch.equal(corrected("all"), torch.ones(16, correction.PARTS).int())
    assert not corrected("joined").any()


def test_chunks_are_joined_where_the_variant_says_so():
    shown, frames = torch.ones(3, 1, 16, 16), torch.zeros(3, 2, 16, 16)
    moved = {}
    for variant in VARIANTS:
        with only(variant):
            moved[variant.name] = bool(joining.Seam(shown, 0).close(frames, 0).any())
    assert moved == {variant.name: variant.joined for variant in VARIANTS} and not moved["off"]
