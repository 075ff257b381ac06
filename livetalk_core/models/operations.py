"""The default layers. Models take their layers from an `operations` argument; this is its default.

Like ComfyUI's `comfy.ops`, these layers cast their weights to the dtype of what comes in, so that
one model can hold some weights in float32 and some in bfloat16 or FP8. A namespace handed in from
outside needs the same names with torch's own signatures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import cpu_convolution, gpu_convolution


def _cast(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(like.dtype)


class Linear(nn.Linear):
    """Linear layer; `scale_weight`, if present, multiplies an FP8 weight (ComfyUI's scaled FP8 layout)."""

    scale_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("scale_weight", None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features], in the dtype of `x`."""
        if self.scale_weight is None:
            return F.linear(x, self.weight.to(x.dtype), _cast(self.bias, x))
        # Scales are small: float16 has few digits of them, or none.
        dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
        weight = self.weight.to(dtype) * self.scale_weight.to(dtype)
        return F.linear(x, weight.to(x.dtype), _cast(self.bias, x))


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim], in the dtype of `x`."""
        return F.layer_norm(x, self.normalized_shape, _cast(self.weight, x), _cast(self.bias, x), self.eps)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim], in the dtype of `x`."""
        return F.rms_norm(x, self.normalized_shape, _cast(self.weight, x), self.eps)


class Conv2d(nn.Conv2d):
    """2D convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W'], in the dtype of `x`."""
        return self._conv_forward(x, self.weight.to(x.dtype), _cast(self.bias, x))


class Conv3d(nn.Conv3d):
    """3D convolution; on CPUs by the faster ways of `cpu_convolution`, on GPUs of `gpu_convolution` where need be.

    Fastest with channels last in memory, which all its paths keep.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T', H', W'], in the dtype of `x`."""
        weight, bias = self.weight.to(x.dtype), _cast(self.bias, x)
        assert isinstance(self.padding, tuple), "named paddings ('same', 'valid') are not used here"
        plain = self.padding[0] or self.groups > 1
        if x.device.type == "cuda" and gpu_convolution.UNFOLDS and x.itemsize == 2 and not plain:
            return gpu_convolution.convolve(x, weight, bias, self.stride, self.padding)
        if x.device.type != "cpu" or plain or torch.compiler.is_compiling():
            return self._conv_forward(x, weight, bias)
        return cpu_convolution.convolve(x, weight, bias, self.stride, self.padding, self.dilation)
