"""What fits which card, and the one line that is said where it does not."""

import pytest
import torch

from livetalk_core.errors import DeviceMemoryError
from livetalk_core.hardware import fit
from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.presets import PRESETS

LARGE, BF16 = PRESETS["14b"], torch.bfloat16


def test_the_14b_model_on_every_card():
    """Whole in FP8 from 24 GB on, whole in bfloat16 from 48 GB; below, streamed, the text encoder on a CPU at 12 GB."""
    fits = {card: fit.fitting(LARGE, BF16, fit.usable(card)) for card in fit.CARDS if card > 8}
    assert all(found.residence.total <= fit.usable(card) for card, found in fits.items())
    flags = {card: found.flags for card, found in fits.items()}
    assert [flags[card] for card in (24, 32, 48, 80, 141)] == ["--fp8", "--fp8", "none", "none", "none"]
    assert flags[12].startswith("--fp8 --memory 11.") and flags[16].startswith("--fp8 --memory 15.")
    assert [card for card, found in fits.items() if found.residence.blocks < 40] == [12, 16]
    assert fit.fitting(LARGE, BF16, 4 * fit.GIB) is None
    assert fit.fitting(LARGE, BF16, 10 * fit.GIB).text_on_cpu


@pytest.mark.parametrize("member", ["flashhead-pro", "flashhead-lite"])
@pytest.mark.parametrize("size", [(512, 512), (768, 448)])
def test_flashhead_fits_whole_on_8_gb(member, size):
    found = fit.fitting(PRESETS[member].sized(size), BF16, fit.usable(8))
    assert found.flags == "none" and not found.text_on_cpu


def test_what_is_counted_beside_the_transformer():
    needed = residence(LARGE, BF16, Placement()).needed
    assert needed["audio encoder weights"] > 0.3 * fit.GIB
    assert needed["margin"] == int(max(needed[part] for part in needed if part.split()[0] in ("transformer", "VAE")
                                       and "weights" not in part) / 8)  # fmt: skip


ALLOCATOR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
BESIDE_IT = [
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]
"""What is said where the driver, cuBLAS, cuDNN and Triton get no memory, which PyTorch's allocator does not see."""


@pytest.mark.parametrize(("card", "said"), [(24, "--fp8 would do"), (16, "--fp8 --memory 15"), (3, "smaller --size")])
@pytest.mark.parametrize("error", [ALLOCATOR, *BESIDE_IT], ids=str)
def test_running_out_of_memory_is_one_line_with_what_would_do(monkeypatch, card, said, error):
    monkeypatch.setattr(fit, "_total", lambda _: card * fit.GIB)
    with pytest.raises(DeviceMemoryError) as caught, fit.explained(LARGE, BF16, torch.device("cpu")):
        raise error
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("CUDA error: an illegal memory access")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as caught, fit.explained(LARGE, BF16, torch.device("cpu")):
        raise error
    assert caught.value is error
