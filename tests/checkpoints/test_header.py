"""Wrong files are named for what they are."""

import json
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from livetalk_core.checkpoints import header, nano
from livetalk_core.checkpoints.header import (
    REPORT_LINES,
    SAMPLE_BYTES,
    check,
    fingerprint,
    is_pickle,
    open_checkpoint,
)
from livetalk_core.errors import CheckpointError
from livetalk_core.models import operations
from livetalk_core.models.codec import build_vae

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def refused(path, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path).header()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"\n <html lang='en'>", "a web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"PK\x03\x04" + bytes(20), "a pickle.*convert"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j", "a pickle.*convert"),
        (b"hello", "not a safetensors file"),
        (bytes(100), "not a safetensors file"),
        (b"\xff" * 100, "not a safetensors file"),
        ((8).to_bytes(8, "little") + b"{garbage", "not a safetensors file"),
        ((5000).to_bytes(8, "little") + b'{"a":', "has 13 of 5,008 bytes.*cut short"),
    ],
)
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    refused(path, message)


def test_truncated_file_says_how_much_there_is(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    refused(path, f"has {whole - 5:,} of {whole:,} bytes")


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62]])
def test_a_shape_that_no_tensor_can_have(tmp_path, shape):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path, r"weights\.safetensors: a is \[0, \d+.*\], which no tensor can be")


def test_a_damaged_file_with_a_deep_header(tmp_path):
    header = nested(100_000).encode()
    (tmp_path / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path, "not a safetensors file, or a damaged one")


def test_missing_file_and_folders_without_weights(tmp_path):
    refused(tmp_path / "nothing.safetensors", "does not exist")
    refused(tmp_path, "holds no safetensors file .0 pickles.; .*download")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    refused(tmp_path, r"holds no safetensors file .1 pickles.; .*convert .*pytorch_model\.bin")
    for name in ("x", "y"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    refused(tmp_path, "holds 2 sets of weights .x.safetensors, y.safetensors.")


def nested(depth):
    """Valid JSON that no reader of limited depth takes."""
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", "{}", '{"weight_map": {"a": "../elsewhere.safetensors"}}', '{"weight_map": []}',
        '{"weight_map": {"a": 1, "b": "c"}}', '{"weight_map": {"a": ""}}', '{"weight_map": null}',
        '{"weight_map": {"a": ".."}}', json.dumps({"weight_map": {"a": "x" * 5000}}), nested(100_000), "9" * 5000,
        '{"weight_map": {"a": "\\ud800"}}', '{"weight_map": {"a": "\\u0000"}}',
    ],
)  # fmt: skip
def test_bad_index(tmp_path, content):
    save_file(TENSORS, tmp_path / "elsewhere.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "m.safetensors.index.json").write_text(content)
    refused(folder, "is not JSON|is not a JSON object|is no index of shards|1 of 1 shards are missing")


def test_shards_are_one_checkpoint(tmp_path):
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in TENSORS}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.keys() == TENSORS.keys()
    assert all(torch.equal(checkpoint[name], TENSORS[name]) for name in TENSORS)


@given(length=st.integers(0, 3000))
def test_header_length_is_never_taken_for_a_signature(tmp_path_factory, length):
    """A header of 640 bytes begins as a pickle does, one of 60 as a web page."""
    path = tmp_path_factory.mktemp("header") / "weights.safetensors"
    save_file(TENSORS, path, {"padding": "x" * length})
    assert not is_pickle(path)
    assert open_checkpoint(path).keys() == TENSORS.keys()


def test_header_has_shapes_and_dtypes_without_data(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({**TENSORS, "c": torch.zeros(3).to(torch.float8_e4m3fn)}, path)
    header = open_checkpoint(path).header()
    assert {name: (list(t.shape), t.dtype, t.device.type) for name, t in header.items()} == {
        "a": ([2, 3], torch.float32, "meta"),
        "b": ([4], torch.bfloat16, "meta"),
        "c": ([3], torch.float8_e4m3fn, "meta"),
    }


def test_config_comes_from_the_file_then_from_beside_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    assert open_checkpoint(path).config(beside=True) == {}
    (tmp_path / "config.json").write_text('{"dim": 1}')
    assert open_checkpoint(path).config(beside=True) == {"dim": 1}
    assert open_checkpoint(path).config(beside=False) == {}
    save_file(TENSORS, path, {"config": '{"dim": 2}'})
    assert open_checkpoint(path).config(beside=True) == {"dim": 2}


def test_long_reports_are_cut_with_a_count():
    needed = {chr(97 + i % 26) * (1 + i // 26): torch.zeros(1) for i in range(50)}
    with pytest.raises(CheckpointError) as caught:
        check(needed, {}, "x")
    lines = str(caught.value).splitlines()
    assert len(lines) == REPORT_LINES + 2
    assert lines[-1] == "  and 30 more such lines"


def test_equal_weights_pass():
    check(TENSORS, {name: tensor.half() for name, tensor in TENSORS.items()}, "x")


def test_a_fingerprint_is_of_every_weight_and_not_of_the_place(tmp_path):
    def printed(tensors, name="weights.safetensors"):
        save_file(tensors, tmp_path / name)
        return fingerprint([tmp_path / name])

    first = printed(TENSORS)
    assert first == printed(TENSORS, "elsewhere.safetensors")
    changed = [{**TENSORS, name: tensor + 1} for name, tensor in TENSORS.items()]
    changed.append({**TENSORS, "a": TENSORS["a"].T.contiguous()})
    assert len({first, *map(printed, changed)}) == 4


def test_a_fingerprint_reads_little(tmp_path, monkeypatch):
    read, path = [], tmp_path / "weights.safetensors"
    save_file({name: torch.zeros(2**20) for name in "abc"}, path)
    monkeypatch.setattr("hashlib.sha256", lambda: SimpleNamespace(update=read.append, hexdigest=lambda: ""))
    fingerprint([path])
    assert sum(map(len, read)) < 4 * SAMPLE_BYTES


@contextmanager
def no_more_files():
    """No file can be opened."""
    import resource

    limits, lowest = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_process_without_descriptors_is_not_told_that_its_files_are_missing_or_damaged(tmp_path):
    """safetensors says "No such file or directory" of every file that it cannot open."""
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    checkpoint, vae = open_checkpoint(path), nano.PRESET.vae
    with torch.device("meta"):
        model = build_vae(vae, operations, "meta", torch.float32)
    for work, raised in ((lambda: open_checkpoint(path), CheckpointError), (lambda: checkpoint["a"], OSError),
                         (lambda: nano.weights("vae", model), OSError)):  # fmt: skip
        with no_more_files(), pytest.raises(raised, match="Too many open files"):
            work()
    with pytest.MonkeyPatch.context() as patch:
        start = path.read_bytes()[:512]
        patch.setattr(header, "_start", lambda _: start)
        with no_more_files(), pytest.raises(CheckpointError, match="cannot be read: Too many open files"):
            header._open(path)
