"""Linear layers that multiply in FP8 (e4m3): an `operations` set whose layers do so where their weight is FP8.

A weight has one scale for each output row, or one for all; what comes in is scaled row by row (token by token) when it
comes. Both are rounded to FP8, and the product is summed in float32. Whatever has no FP8 weight is as in `operations`.

`is_quantized` says which weights that are: the blocks' linear layers, 98 % of the 14B model. The others stay as they
are. They take little time, and what they lose is lost to every block (embeddings of patches, timestep, text, image and
sound, the timestep's projection) or to the result at once (the head). Modulations, norms and biases are no products.
"""

import re
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import operations

FP8 = torch.float8_e4m3fn
LAYERS = r"(?:self|cross)_attn\.(?:[qkvo]|[kv]_img)|audio_cross_attn\.(?:q_linear|kv_linear|proj)|ffn\.[02]"
"""The layers of a block whose weights are quantised."""


def is_quantized(name: str) -> bool:
    """Whether the transformer's weight of this name is one that FP8 touches."""
    return re.fullmatch(rf"blocks\.\d+\.(?:{LAYERS})\.weight", name) is not None


def scaled(x: Tensor, rows: bool) -> tuple[Tensor, Tensor]:
    """FP8 values of `x` [..., n], and what multiplies them back in float32: [..., 1] for each row, or [] for all."""
    least, most = x.aminmax(dim=-1, keepdim=True) if rows else x.aminmax()
    largest = torch.maximum(most, -least).float()
    scale = (largest / torch.finfo(FP8).max).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / (scale if rows else scale[None])).to(FP8), scale  # divided in float32, as the scale is


def quantize(block: nn.Module) -> None:
    """Scale the weights of a transformer's block to FP8, row by row, where they lie; those that are FP8 stay."""
    for name, layer in block.named_modules():
        if re.fullmatch(LAYERS, name) and (linear := cast(operations.Linear, layer)).weight.itemsize > 1:
            weight, linear.scale_weight = scaled(linear.weight, rows=True)
            linear.weight = nn.Parameter(weight, requires_grad=False)


class Quantized(NamedTuple):
    """What comes into a layer, also as FP8 rows with their scales: for all layers that read it."""

    x: Tensor
    x_MK: Tensor
    scale_M1: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Quantized":
        """[..., K] quantised row by row."""
        return cls(x, *scaled(x.flatten(0, -2), rows=True))


class Linear(operations.Linear):
    """Multiplies in FP8 by `torch._scaled_mm`: on GPUs of compute capability 8.9 (Ada, Hopper) or higher."""

    def prepare(self, x: Tensor) -> "Tensor | Quantized":
        """`x` quantised, for this layer and others that take the same; as it is where this one's weight is not FP8."""
        return x if self.scale_weight is None else self.quantized(x)

    def quantized(self, x: Tensor) -> Quantized:
        """What comes in, quantised."""
        return Quantized.of(x)

    def forward(self, x: "Tensor | Quantized") -> Tensor:
        """[..., in_features] -> [..., out_features], in the dtype of `x`, which may be prepared."""
        if self.scale_weight is None or self.weight.dtype != FP8:
            return super().forward(x.x if isinstance(x, Quantized) else x)
        x, x_MK, scale_M1 = x if isinstance(x, Quantized) else self.quantized(x)
        scale_N1 = self.scale_weight.float().reshape(-1, 1).expand(self.out_features, 1)
        return self.product(x_MK, scale_M1, scale_N1).to(x.dtype).unflatten(0, x.shape[:-1])

    def product(self, x_MK: Tensor, scale_M1: Tensor, scale_N1: Tensor) -> Tensor:
        """FP8 rows and the scales of rows and weight -> [M,N]; the kernel gives bfloat16 alone."""
        bias = None if self.bias is None else self.bias.bfloat16()
        scale_1N = scale_N1.t().contiguous()
        return torch._scaled_mm(x_MK, self.weight.t(), scale_M1, scale_1N, bias, out_dtype=torch.bfloat16)


class TensorwiseLinear(Linear):
    """The same where PyTorch's kernel takes one scale for all rows, and no others, as on Windows: those of the rows are
    multiplied by afterwards, in place.
    """

    def product(self, x_MK: Tensor, scale_M1: Tensor, scale_N1: Tensor) -> Tensor:
        """See `Linear.product`; sums of unscaled values are up to 3e9, which bfloat16 holds."""
        one = scale_M1.new_ones(())
        out = torch._scaled_mm(x_MK, self.weight.t(), one, one, out_dtype=torch.bfloat16)
        out.mul_(scale_M1).mul_(scale_N1.t())
        return out if self.bias is None else out.add_(self.bias)


class SimulatedLinear(Linear):
    """The same numbers on any device, in float32: slow."""

    def product(self, x_MK: Tensor, scale_M1: Tensor, scale_N1: Tensor) -> Tensor:
        """See `Linear.product`; in float32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x_MK.float() * scale_M1, self.weight.float() * scale_N1, bias)


class Operations:
    """The default layers, linear ones in FP8."""

    Linear, LayerNorm, RMSNorm = Linear, operations.LayerNorm, operations.RMSNorm
    Conv2d, Conv3d = operations.Conv2d, operations.Conv3d


class TensorwiseOperations(Operations):
    """The default layers, linear ones in FP8 by one scale, and those of rows afterwards."""

    Linear = TensorwiseLinear


class SimulatedOperations(Operations):
    """The default layers, linear ones in simulated FP8."""

    Linear = SimulatedLinear
