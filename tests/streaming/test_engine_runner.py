"""What a worker holds: weights of the file's own dtype are the file's pages, which all workers of a host share."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from livetalk_core.checkpoints import nano
from livetalk_core.streaming.engine_runner import load_transformer


def mapped(path) -> list[range]:
    """The addresses at which a file is mapped into this process."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(bound, 16) for bound in re.split("-", fields[0]))) for fields in lines]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "shared"), [(torch.float32, True), (torch.bfloat16, False)])
def test_weights_are_mapped_from_their_file_where_the_dtype_allows(tmp_path, dtype, shared):
    path = tmp_path / "transformer.safetensors"
    save_file(nano.transformer("cpu", torch.float32).state_dict(), path, {"config": '{"num_heads": 6}'})
    model = load_transformer(str(path), dtype, torch.device("cpu"), sharded=False)
    places = mapped(path)
    inside = [any(weight.data_ptr() in place for place in places) for weight in model.parameters()]
    assert all(inside) if shared else not any(inside)
