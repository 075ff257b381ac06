"""A folder that several processes wrote is read; one whose description holds anything else is not, and runs nothing."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from livetalk_core.errors import CheckpointError
from livetalk_core.training.sharding import read_whole


class Planted:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def shards(tmp_path):
    weights = {"a/weights/x": torch.arange(6.0).view(2, 3), "a/weights/step": torch.tensor(2.0).half()}
    dcp.save({**weights, "b/other": torch.ones(3)}, checkpoint_id=tmp_path / "shards", no_dist=True)
    return tmp_path / "shards"


def test_tensors_come_back(shards):
    read = read_whole(shards, "a/weights/")
    assert torch.equal(read["x"], torch.arange(6.0).view(2, 3))
    assert read["step"].dtype == torch.float16
    assert read.keys() == {"x", "step"}


def test_code_in_a_description_is_not_run(shards, tmp_path):
    trace = tmp_path / "trace"
    (shards / ".metadata").write_bytes(pickle.dumps(Planted(trace)))
    with pytest.raises(CheckpointError, match="which no list of tensors does"):
        read_whole(shards, "a/")
    assert not trace.exists()


def test_objects_beside_tensors_are_not_read(shards):
    dcp.save({"a/weights/x": [1, 2]}, checkpoint_id=shards, no_dist=True)
    with pytest.raises(CheckpointError, match="BytesStorageMetadata"):
        read_whole(shards, "a/")


@pytest.mark.parametrize("damage", [b"", b"\x80\x04", b"no pickle"])
def test_a_damaged_description_is_said(shards, damage):
    (shards / ".metadata").write_bytes(damage)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_whole(shards, "a/")
