"""Main memory that weights are streamed from: what is pinned, and where in it they lie."""

import pytest
import torch
from torch import nn

from livetalk_core.hardware.memory import meta_models, with_layers
from livetalk_core.parallel import offload
from livetalk_core.presets import PRESETS

CPU = torch.device("cpu")


@pytest.fixture
def asked(monkeypatch):
    """Bytes that were asked of PyTorch's pinned memory, which a CPU build has not."""
    sizes, empty = [], torch.empty

    def counted(*given, pin_memory=False, **others):
        if pin_memory:
            sizes.append(given[0])
        return empty(*given, **others)

    monkeypatch.setattr(offload.torch, "empty", counted)
    return sizes


def rounded_up(size: int) -> int:
    """To a power of two, as PyTorch's allocator of pinned memory does."""
    return 1 << (size - 1).bit_length()


@pytest.mark.parametrize("in_fp8", [False, True])
@pytest.mark.parametrize("count", [1, 9, 21, 40])
def test_no_more_is_pinned_than_the_14b_models_blocks_hold(monkeypatch, count, in_fp8):
    """Beyond a megabyte; block by block it was a sixth more."""
    (block,) = meta_models(with_layers(PRESETS["14b"], 1), torch.bfloat16, in_fp8)[0].blocks
    each, asked = sum(layer.weight.nbytes for layer in offload.streamed_layers([block])), []
    monkeypatch.setattr(offload.torch, "empty", lambda size, **_: asked.append(size) or size)
    list(offload.pinned_memory(count * each))
    assert count * each <= sum(map(rounded_up, asked)) <= count * each + 2**20
    assert rounded_up(each) > 1.14 * each


def test_weights_lie_behind_one_another_across_pieces():
    pieces = [torch.arange(4), torch.arange(4, 6), torch.arange(6, 14)]
    rooms = list(offload.cut(iter(pieces), [3, 5, 1]))
    assert [[piece.tolist() for piece in room] for room in rooms] == [[[0, 1, 2]], [[3], [4, 5], [6, 7]], [[8]]]
    assert rooms[0][0].data_ptr() == pieces[0].data_ptr(), "no copies"


class Device:
    """Says that it is a GPU where it is asked whether to pin, and holds nothing."""

    type = "cuda"


@pytest.fixture
def small(monkeypatch):
    """Pieces of 4 to 16 bytes, on a machine that has room for all."""
    staging = offload.Staging
    for name, size in (("LEAST_PINNED", 4), ("LEAST_TRIED", 4), ("MOST_PINNED", 16)):
        monkeypatch.setattr(offload, name, size)
    monkeypatch.setattr(offload, "_can_pin", lambda _: True)
    monkeypatch.setattr(offload, "Staging", lambda size, _: staging(size, CPU))


def blocks_of_odd_sizes():
    return [nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), nn.Sequential(nn.Linear(2, 7))]


def test_pinned_weights_come_whole(small, asked):
    """Layers of odd sizes in pieces of 16 bytes at most: nearly all lie in several."""
    blocks, x = blocks_of_odd_sizes(), torch.randn(4, 3)
    expected = blocks[1](blocks[0](x))
    weights = [layer.weight.nbytes for layer in offload.streamed_layers(blocks)]
    offload.stream_weights(blocks, Device())
    assert sum(asked) == sum(weights) and max(asked) == 16
    for _ in range(2):
        assert torch.equal(blocks[1](blocks[0](x)), expected)


@pytest.mark.parametrize("most", [0, 20, 60, 100])
def test_what_the_system_refuses_to_pin_is_streamed_all_the_same(small, asked, monkeypatch, caplog, most):
    """As under WSL, of 156 bytes: 60 are those of the first layer, 40 of the second."""
    empty = offload.torch.empty

    def refused(*given, pin_memory=False, **others):
        if pin_memory and sum(asked) + given[0] > most:
            raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ...")
        return empty(*given, pin_memory=pin_memory, **others)

    monkeypatch.setattr(offload.torch, "empty", refused)
    blocks, x = blocks_of_odd_sizes(), torch.randn(4, 3)
    expected = blocks[1](blocks[0](x))
    offload.stream_weights(blocks, Device())
    assert sum(asked) == most
    for _ in range(2):
        assert torch.equal(blocks[1](blocks[0](x)), expected)
    (message,) = caplog.messages
    assert "does not let be pinned" in message and "\n" not in message
