"""Attention to some of the keys on GPUs that are not here: which of PyTorch's kernels is asked, and in what dtype."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.dry_run.device import CUDA, let_cuda_be_indexed
from livetalk_core.hardware.machine import attends_in_bfloat16
from livetalk_core.parallel.partial_attention import attend_partly


class Asked(TorchDispatchMode):
    """Notes which kernel of attention is called, and the dtype of its queries."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in func.name():
            self.kernel, self.dtype = func.name(), args[0].dtype
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("capability", "dtype", "kernel", "taken"),
    [
        ((9, 0), torch.bfloat16, "flash", torch.bfloat16),
        ((8, 0), torch.bfloat16, "flash", torch.bfloat16),
        ((7, 5), torch.bfloat16, "efficient", torch.float32),
        ((7, 5), torch.float16, "efficient", torch.float16),
        ((9, 0), torch.float32, "efficient", torch.float32),
    ],
)
def test_a_ring_takes_a_kernel_that_the_gpu_has(monkeypatch, capability, dtype, kernel, taken):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    let_cuda_be_indexed()
    with FakeTensorMode(), Asked() as asked:
        q, k = (torch.empty(1, count, 4, 128, dtype=dtype, device=CUDA) for count in (96, 70))
        out, log_sum = attend_partly(q, k, k)
    assert f"_{kernel}_" in asked.kernel and asked.dtype == taken
    assert out.dtype == dtype and out.shape == q.shape
    assert log_sum.dtype == torch.float32 and log_sum.shape == (1, 96, 4)


def test_what_the_gpu_can_do_is_no_break_of_a_compiled_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))

    def work(x):
        return x.float() if attends_in_bfloat16(x.device) else x + 1

    compiled = torch.compile(work, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2)).sum() == 2
