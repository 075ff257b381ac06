"""The default layers. Models take their layers from an `operations` argument; this is its default.

Like ComfyUI's `comfy.ops`, these layers cast their weights to the dtype of what comes in, so that
one model can hold some weights in float32 and some in bfloat16 or FP8. A namespace handed in from
outside needs the same names with torch's own signatures.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

CPU_VECTORS = torch.backends.cpu.get_cpu_capability()
ONEDNN_DTYPES = [torch.float32] * torch.backends.mkldnn.is_available()
if ONEDNN_DTYPES and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    ONEDNN_DTYPES.append(torch.bfloat16)


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
        if not torch.is_grad_enabled() and x.dtype in ONEDNN_DTYPES:
            if (at_once := _frames_at_once(x, weight, self.stride)) > 1:
                return _wide_convolution(x, weight, bias, self.padding, at_once)
            return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, self.dilation, self.groups)
        return _stacked_convolution(x, weight, bias, self.stride, self.padding)


def _frames_at_once(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> int:
    """How many frames' channels together fill a float32 vector of 16 lanes, where that is more than one frame's."""
    out_channels, _, kernel = weight.shape[:3]
    if kernel == 1 or stride[0] > 1 or x.dtype != torch.float32 or CPU_VECTORS != "AVX512":
        return 1
    count = x.shape[2] - kernel + 1
    return next((frames for frames in (4, 2) if frames * out_channels <= 16 and count % frames == 0), 1)


def _wide_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], at_once: int) -> Tensor:
    """A 3D convolution without padding in time that makes `at_once` frames in each step, as channels of one.

    The kernel is longer by as many frames less one, and each frame's weights have zeros at the taps of the others.
    """
    kernels = [F.pad(weight, (0, 0, 0, 0, frame, at_once - 1 - frame)) for frame in range(at_once)]
    bias = None if bias is None else bias.repeat(at_once)
    wide = torch.mkldnn_convolution(x, torch.cat(kernels), bias, padding, (at_once, 1, 1), (1, 1, 1), 1)
    frames_BTHWC = rearrange(wide.movedim(1, -1), "b t h w (n c) -> b (t n) h w c", n=at_once)
    return frames_BTHWC.contiguous().movedim(-1, 1)


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
