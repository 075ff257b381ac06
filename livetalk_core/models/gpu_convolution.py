"""3D convolutions in 16 bits on NVIDIA GPUs, where PyTorch computes them without cuDNN.

cuDNN 9.8 to 9.14 gives wrong numbers for some, so that from 2.9 on PyTorch unfolds every input of one instead: several
times the memory, and slow (its issues 163539 and 166643). Wheels of 2.9 and 2.10 come with such versions.
2D convolutions have no such fault. B batch, C channels, T frames, H W rows and columns.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FAULTY = range(9_08_00, 9_15_00)
"""cuDNN's versions, as it numbers them: 9.10.2 is 91002."""


def unfolds(cudnn: int | None, cuda: str | None) -> bool:
    """Whether PyTorch unfolds 3D convolutions in 16 bits with this cuDNN; another maker's has numbers of its own."""
    return cuda is not None and cudnn in FAULTY


def _version() -> int | None:
    try:
        return torch.backends.cudnn.version()
    except RuntimeError:  # another than PyTorch was built with: whoever computes with it is told so
        return None


UNFOLDS = unfolds(_version(), torch.version.cuda)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """[B, C, T, H, W] -> [B, C', T', H', W']: one group, no padding in time, no dilation.

    Frame by frame, each the sum of 2D convolutions of the frames that the kernel sees, so that little more than the
    result is held at once.
    """
    kernel, step = weight.shape[2], stride[0]
    count = (x.shape[2] - kernel) // step + 1
    result: Tensor | None = None
    for index in range(count):
        frame = F.conv2d(x[:, :, index * step], weight[:, :, 0], bias, stride[1:], padding[1:])
        for tap in range(1, kernel):
            frame += F.conv2d(x[:, :, index * step + tap], weight[:, :, tap], None, stride[1:], padding[1:])
        if result is None:
            result = frame.new_empty(len(frame), count, *frame.shape[2:], frame.shape[1]).movedim(-1, 1)
        result[:, :, index] = frame
    assert result is not None, "as many frames as the kernel sees, or more"
    return result
