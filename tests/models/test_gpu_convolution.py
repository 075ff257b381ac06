"""3D convolutions as sums of 2D ones: the same numbers, and used where PyTorch would unfold."""

import pytest
import torch
from torch.nn import functional as F

from livetalk_core.models import gpu_convolution, operations


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1), (3, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_pytorchs_convolution(kernel, stride, biased):
    x, weight, bias = drawn(2, 6, 7, 10, 8), drawn(5, 6, *kernel), drawn(5) if biased else None
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    found = gpu_convolution.convolve(x, weight, bias, stride, padding)
    torch.testing.assert_close(found, F.conv3d(x, weight, bias, stride, padding), atol=1e-4, rtol=1e-5)


def test_in_bfloat16_it_is_within_its_rounding():
    x, weight, bias = drawn(1, 96, 6, 16, 16), drawn(96, 96, 3, 3, 3) / 50, drawn(96)
    exact = F.conv3d(x, weight, bias, padding=(0, 1, 1))
    found = gpu_convolution.convolve(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), (1, 1, 1), (0, 1, 1))
    assert ((found.float() - exact).norm() / exact.norm()).item() < 5e-3


def test_channels_that_are_last_in_memory_stay_there():
    x = drawn(1, 6, 7, 10, 8).to(memory_format=torch.channels_last_3d)
    weight = drawn(5, 6, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    found = gpu_convolution.convolve(x, weight, None, (1, 1, 1), (0, 1, 1))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("cudnn", "cuda", "unfolds"),
    [
        (None, None, False),
        (90701, "12.6", False),
        (90800, "12.8", True),
        (91002, "12.8", True),
        (91400, "13.0", True),
        (91501, "13.0", False),
        (91002, None, False),
    ],
)
def test_the_versions_with_which_pytorch_unfolds(cudnn, cuda, unfolds):
    assert gpu_convolution.unfolds(cudnn, cuda) is unfolds


def test_a_cudnn_that_does_not_fit_is_none(monkeypatch):
    def refuse():
        raise RuntimeError("cuDNN version incompatibility")

    monkeypatch.setattr(torch.backends.cudnn, "version", refuse)
    assert gpu_convolution._version() is None


def test_a_cpu_has_its_own_way(monkeypatch):
    monkeypatch.setattr(gpu_convolution, "UNFOLDS", True)
    monkeypatch.setattr(gpu_convolution, "convolve", None)
    layer = operations.Conv3d(2, 2, 3, padding=(0, 1, 1), dtype=torch.bfloat16)
    assert layer(drawn(1, 2, 3, 4, 4).bfloat16()).shape == (1, 2, 1, 4, 4)


@pytest.mark.gpu
def test_on_a_gpu_it_agrees_with_float32():
    x, weight = drawn(1, 96, 6, 32, 32).cuda(), drawn(96, 96, 3, 3, 3).cuda() / 50
    with torch.backends.cudnn.flags(allow_tf32=False):
        exact = F.conv3d(x, weight, padding=(0, 1, 1))
    found = gpu_convolution.convolve(x.bfloat16(), weight.bfloat16(), None, (1, 1, 1), (0, 1, 1))
    assert ((found.float() - exact).norm() / exact.norm()).item() < 1e-2
