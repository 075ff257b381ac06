"""Conversion: values kept, one tensor at a time, nothing half-written left behind."""

import errno
import json
import os
import shutil
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion

from livetalk_core.checkpoints import convert as module
from livetalk_core.checkpoints import keys
from livetalk_core.checkpoints.convert import convert
from livetalk_core.checkpoints.load import load_audio_encoder
from livetalk_core.errors import CheckpointError, OutputError

from .conftest import TRANSFORMER_CONFIG, save_shards, weights


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_pickle_to_safetensors(tmp_path, wrap, legacy):
    tensors = {
        "w": torch.randn(4, 6).T, "b": torch.randn(3).bfloat16(), "n": torch.tensor(5), "e": torch.zeros(0, 2),
        "q": torch.randn(4).to(torch.float8_e4m3fn), "m": torch.tensor([True, False]),
    }  # fmt: skip
    if legacy:
        del tensors["q"]  # torch's older format does not know FP8
    source, output = tmp_path / "m.pth", tmp_path / "m.safetensors"
    torch.save({wrap: tensors, "step": 3} if wrap else tensors, source, _use_new_zipfile_serialization=not legacy)
    shares = []
    assert convert(source, output, progress=shares.append) == output
    assert shares == sorted(shares) and shares[-1] == 1
    found = load_file(output)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo run",)


def test_code_in_a_pickle_is_not_run(tmp_path, capfd):
    torch.save({"w": torch.zeros(1), "x": Evil()}, tmp_path / "m.pth")
    with pytest.raises(
        CheckpointError, match=r"holds more than tensors \(it names \w+\.system, which is code\)"
    ) as error:
        convert(tmp_path / "m.pth", tmp_path / "m.safetensors")
    assert "weights_only" not in str(error.value), "PyTorch's advice to switch the safety off"
    assert "run" not in capfd.readouterr().out
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("name", ["m.pth", "m", "m.safetensors.bin", "m.ckpt"])
def test_another_ending_is_refused(tmp_path, name):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    with pytest.raises(
        OutputError, match=r"what is written is safetensors, and programs go by the ending: name it .*m.*\.safetensors"
    ):
        convert(tmp_path / "vae.safetensors", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_damaged_pickle(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "m.pth")
    content = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        convert(tmp_path / "m.pth", tmp_path / "m.safetensors")


def test_pickle_without_tensors(tmp_path):
    torch.save({"step": 3}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        convert(tmp_path / "m.pth", tmp_path / "m.safetensors")


def test_old_torch_does_not_read_pickles(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(1)}, tmp_path / "m.pth")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(CheckpointError, match=r"torch 2\.9\.1 cannot read .* 2\.10 or newer"):
        convert(tmp_path / "m.pth", tmp_path / "m.safetensors")


def test_shards_to_one_file_that_knows_its_config(tmp_path):
    own = weights("transformer")
    save_shards(tmp_path, own)
    (tmp_path / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    found = load_file(convert(tmp_path, tmp_path / "one.safetensors"))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert json.loads(metadata(tmp_path / "one.safetensors")["config"]) == TRANSFORMER_CONFIG


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_a_config_that_cannot_be_read_is_named(tmp_path, content):
    save_file(weights("transformer"), tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json (is not|cannot be read)"):
        convert(tmp_path / "m.safetensors", tmp_path / "out.safetensors")


def test_a_state_dict_in_itself(tmp_path):
    content = {"model": {}}
    content["model"] = content
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        convert(tmp_path / "m.pth", tmp_path / "out.safetensors")


def test_a_foreign_config_is_not_taken(tmp_path):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    convert(tmp_path / "vae.safetensors", tmp_path / "copy.safetensors")
    assert metadata(tmp_path / "copy.safetensors") == {"format": "pt"}


def test_pickled_wav2vec2_folder(published):
    folder = published / "chinese-wav2vec2-base"
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    wanted = load_audio_encoder(folder, "cpu").state_dict()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"convert .*pytorch_model\.bin"):
        load_audio_encoder(folder, "cpu")
    convert(folder / "pytorch_model.bin", folder / "model.safetensors")
    found = load_audio_encoder(folder, "cpu").state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp8_scales_the_blocks_linear_layers_and_nothing_else(tmp_path, dtype):
    own = {name: tensor.to(dtype) for name, tensor in weights("transformer").items()}
    own["blocks.0.ffn.0.weight"].zero_()
    save_file(own, tmp_path / "m.safetensors")
    found = load_file(convert(tmp_path / "m.safetensors", tmp_path / "fp8.safetensors", fp8=True))
    scaled = {name.removesuffix(".scale_weight") for name in found if name.endswith(".scale_weight")}
    layers = ["self_attn." + x for x in "qkvo"] + ["cross_attn." + x for x in ("q", "k", "v", "o", "k_img", "v_img")]
    layers += ["ffn.0", "ffn.2", *(f"audio_cross_attn.{x}" for x in ("q_linear", "kv_linear", "proj"))]
    assert scaled == {f"blocks.{block}.{layer}" for block in range(6) for layer in layers}
    for name, tensor in own.items():
        layer = name.removesuffix(".weight")
        if layer not in scaled or not name.endswith(".weight"):
            assert torch.equal(found[name], tensor)
            continue
        assert found[name].dtype == torch.float8_e4m3fn
        scale = found[f"{layer}.scale_weight"]
        assert scale.shape == () and scale.dtype == torch.float32
        back = found[name].float() * scale
        step = (
            tensor.float().abs() / 16 + scale * 2**-9
        )  # half of the last of 3 mantissa bits, and of the smallest step
        assert (back - tensor.float()).abs().le(step).all()
    assert keys.is_marker("scaled_fp8") and "scaled_fp8" in found


def test_fp8_is_for_the_transformer(tmp_path):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"is a Wan 2\.1 VAE; FP8 is for"):
        convert(tmp_path / "vae.safetensors", tmp_path / "out.safetensors", fp8=True)


def test_fp8_twice_is_refused(tmp_path):
    save_file(weights("transformer"), tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "fp8.safetensors", fp8=True)
    with pytest.raises(CheckpointError, match="is FP8 already"):
        convert(tmp_path / "fp8.safetensors", tmp_path / "again.safetensors", fp8=True)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_file_is_kept(tmp_path):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        convert(tmp_path / "vae.safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_too_little_room_is_seen_before_writing(tmp_path, monkeypatch):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="1,000 bytes are free"):
        convert(tmp_path / "vae.safetensors", tmp_path / "out.safetensors")
    assert files(tmp_path) == ["vae.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(tmp_path, monkeypatch, error):
    save_file(weights("vae"), tmp_path / "vae.safetensors")
    put, calls = module._put, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            assert [name.endswith(".tmp") for name in files(tmp_path)] == [True, False]
            raise error
        put(*arguments)

    monkeypatch.setattr(module, "_put", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        convert(tmp_path / "vae.safetensors", tmp_path / "out.safetensors")
    assert files(tmp_path) == ["vae.safetensors"]


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OutputError, match="is no folder"):
        convert(tmp_path / "vae.pth", tmp_path / "nowhere" / "out.safetensors")


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.float8_e4m3fn])


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(DTYPES, st.lists(st.integers(0, 4), max_size=3))))
def test_any_tensors_come_back(tmp_path_factory, described):
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in described.items()}
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    module.write_weights(path, tensors, module._unchanged)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float())


def test_what_holds_no_weights_or_cannot_be_named_is_refused(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    torch.save({"__metadata__": torch.zeros(2)}, tmp_path / "named.pth")
    for name, fault in (("none.safetensors", "holds no weights"), ("named.pth", "is called __metadata__")):
        with pytest.raises(CheckpointError, match=fault):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    assert files(tmp_path) == ["named.pth", "none.safetensors"]


@pytest.mark.parametrize("links", [True, False])
def test_what_has_come_to_be_there_meanwhile_stays(tmp_path, monkeypatch, links):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    output = tmp_path / "out.safetensors"
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError("no links here")))
    with pytest.raises(OutputError, match="has come to exist meanwhile"):
        convert(tmp_path / "a.safetensors", output, progress=lambda _: output.write_bytes(b"precious") and None)
    assert output.read_bytes() == b"precious" and files(tmp_path) == ["a.safetensors", "out.safetensors"]
    output.unlink()
    assert convert(tmp_path / "a.safetensors", output).exists()
