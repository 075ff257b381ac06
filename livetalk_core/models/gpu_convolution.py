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

    A sum of 2D convolutions, one for each frame that the kernel sees: beside the result one more of its size is held.
    """
    kernel, step = weight.shape[2], stride[0]
    count = (x.shape[2] - kernel) // step + 1
    frames_BTHWC = x.movedim(1, -1)
    sums: Tensor | None = None
    for tap in range(kernel):
        images = frames_BTHWC[:, tap : tap + (count - 1) * step + 1 : step].flatten(0, 1).movedim(-1, 1)
        share = F.conv2d(images, weight[:, :, tap], None if tap else bias, stride[1:], padding[1:])
        sums = share if sums is None else sums.add_(share)
    assert sums is not None
    return sums.unflatten(0, (-1, count)).movedim(1, 2)
