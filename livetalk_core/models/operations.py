"""The default layers. Models take their layers from an `operations` argument; this is its default.

Like ComfyUI's `comfy.ops`, these layers cast their weights to the dtype of what comes in, so that
one model can hold some weights in float32 and some in bfloat16 or FP8. A namespace handed in from
outside needs the same names with torch's own signatures.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


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
        weight = self.weight.to(x.dtype)
        if self.scale_weight is not None:
            weight = weight * self.scale_weight.to(x.dtype)
        return F.linear(x, weight, _cast(self.bias, x))


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
    """3D convolution; on CPUs through oneDNN, since PyTorch's own path for one small clip is 4-5 times slower.

    Fastest with channels last in memory, which all its paths keep.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T', H', W'], in the dtype of `x`."""
        weight, bias = self.weight.to(x.dtype), _cast(self.bias, x)
        assert isinstance(self.padding, tuple), "named paddings ('same', 'valid') are not used here"
        if x.device.type != "cpu" or self.padding[0] or self.groups > 1:
            return self._conv_forward(x, weight, bias)
        if not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
            if _leaves_lanes_empty(x, weight, self.stride):
                return _paired_convolution(x, weight, bias, self.padding)
            return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, self.groups)
        return _stacked_convolution(x, weight, bias, self.stride, self.padding)


def _leaves_lanes_empty(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether a float32 kernel would fill at most half of each 16-lane vector, and frames come in pairs."""
    out_channels, _, kernel = weight.shape[:3]
    few = out_channels <= 8 and x.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return few and kernel > 1 and stride[0] == 1 and (x.shape[2] - kernel + 1) % 2 == 0


def _paired_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """A 3D convolution without padding in time that makes two frames at once, as twice the channels of one.

    Its kernel is one frame longer and moves by two: one half of the outputs has a zero last tap, the other a first.
    """
    both = torch.cat([F.pad(weight, (0, 0, 0, 0, 0, 1)), F.pad(weight, (0, 0, 0, 0, 1, 0))])
    bias = None if bias is None else bias.repeat(2)
    pairs = torch.mkldnn_convolution(x, both, bias, padding, (2, 1, 1), (1, 1, 1), 1)
    return rearrange(pairs.movedim(1, -1), "b t h w (two c) -> b (t two) h w c", two=2).movedim(-1, 1)


def _stacked_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """A 3D convolution without padding in time, as a 2D one over the stacked channels of neighbouring frames.

    Backwards several times faster on CPUs than any 3D path.
    """
    kernel, step = weight.shape[2], stride[0]
    count = (x.shape[2] - kernel) // step + 1
    frames_BTHWC = x.movedim(1, -1)
    stacked = torch.cat([frames_BTHWC[:, k : k + (count - 1) * step + 1 : step] for k in range(kernel)], dim=-1)
    images = stacked.flatten(0, 1).movedim(-1, 1)
    flat = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(images, flat, bias, stride[1:], padding[1:]).unflatten(0, (-1, count)).movedim(1, 2)
