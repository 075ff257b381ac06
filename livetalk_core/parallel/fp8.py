"""What ranks send each other as FP8: a byte a value, and two more for the scale of each token's vector in each head."""

import torch
from torch import Tensor

VALUE, SCALE = torch.float8_e4m3fn, torch.bfloat16
GREATEST = torch.finfo(VALUE).max


def squeeze(x: Tensor) -> Tensor:
    """[..., D] -> [..., D + 2] as bytes, which every kind of process group carries."""
    least = max(torch.finfo(dtype).tiny for dtype in (SCALE, x.dtype))
    scale = (x.abs().amax(-1, keepdim=True) / GREATEST).to(SCALE).clamp_min(least)
    return torch.cat([(x / scale.to(x.dtype)).to(VALUE).view(torch.uint8), scale.view(torch.uint8)], dim=-1)


def expand(sent: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse: [..., D + 2] bytes -> [..., D], to within 1/16 of each value or 1/458,752 of the largest."""
    values, scale = sent[..., : -SCALE.itemsize], sent[..., -SCALE.itemsize :]
    return values.view(VALUE).to(dtype) * scale.contiguous().view(SCALE).to(dtype)
