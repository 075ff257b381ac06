"""Files made to harm: nothing of them is run, and none takes more memory or time than it holds."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from livetalk_core.checkpoints.convert import convert
from livetalk_core.checkpoints.header import MAX_HEADER, MAX_JSON, json_file, open_checkpoint
from livetalk_core.checkpoints.load import open_model, transformer_part
from livetalk_core.errors import CheckpointError

from .conftest import weights

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1.5 * 2**30
CONVERT_ALL = """
import sys
from pathlib import Path
import torch
from livetalk_core.checkpoints.convert import convert
from livetalk_core.errors import CheckpointError
from livetalk_core.hardware.machine import peak_memory
for path in map(Path, sys.argv[1:]):
    try:
        print(convert(path, path.with_suffix(".safetensors")))
    except CheckpointError as error:
        print(error)
print(peak_memory(torch.device("cpu")))
"""


def rewritten(path, method, instructions=None):
    """A saved file's archive packed again by another method, or with other instructions."""
    torch.save({"w": torch.zeros(8)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, instructions if instructions and name.endswith("data.pkl") else content)


def legacy(path, instructions):
    torch.save({"w": torch.zeros(8)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    rest = content[sum(len(pickle.dumps(part, 2)) for part in (0x1950A86A20F9469CFC6C, 1001)) :]
    path.write_bytes(content[: len(content) - len(rest)] + instructions)


HUGE_ARRAY = b"\x80\x02cbuiltins\nbytearray\n" + b"J\x00\x94\x35\x77" + b"\x85R."
"""2 GB of zeros, filled."""
DOUBLED = b"".join(b"h%ch%c\x86q%c" % (number, number, number + 1) for number in range(60))
TUPLES = b"\x80\x02}()q\x00" + DOUBLED + b"Nu."
"""Sixty tuples of twice the tuple before, each a key of a dict: the last one's hash visits 2^60 of them."""


def copied_on_load(path, sides):
    """One number, given out as many, copied to another dtype while they are read: 8 bytes for each."""

    class Copied:
        def __reduce__(self):
            copy = torch._utils._rebuild_device_tensor_from_cpu_tensor
            return copy, (torch.zeros(1).as_strided(sides, (0, 0)), torch.float64, "cpu", False)

    torch.save({"w": Copied()}, path)


def many_lists(path, count):
    """An archive whose directory names its one list of weights many times."""
    torch.save({"w": torch.zeros(8)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (listed,) = (entry for entry in archive.filelist if entry.filename.endswith("data.pkl"))
        archive.filelist += [listed] * (count - 1)
        archive._didModify = True


BOMBS = {
    "zip bomb": lambda path: rewritten(path, zipfile.ZIP_DEFLATED, b"\x80\x02" + b"]" * 300_000_000 + b"."),
    "instructions": lambda path: rewritten(path, zipfile.ZIP_STORED, b"\x80\x02" + b"]" * 30_000_000 + b"."),
    "instructions as before 1.6": lambda path: legacy(path, b"\x80\x02" + b"]" * 30_000_000 + b"."),
    "a pickle without end": lambda path: rewritten(path, zipfile.ZIP_STORED, b"\x80\x02" + b"N" * 70_000_000 + b"."),
    "filled memory": lambda path: rewritten(path, zipfile.ZIP_STORED, HUGE_ARRAY),
    "filled by a copy": lambda path: copied_on_load(path, (50_000, 10_000)),
    "tuples": lambda path: rewritten(path, zipfile.ZIP_STORED, TUPLES),
    "many lists": lambda path: many_lists(path, 1000),
    "stride bomb": lambda path: torch.save({"w": torch.zeros(4).as_strided((50_000, 10_000), (0, 0))}, path),
    "overlapping views": lambda path: torch.save({"w": torch.zeros(70_000).as_strided((60_000, 9_000), (1, 1))}, path),
    "link farm": lambda path: torch.save(dict.fromkeys(map(str, range(2000)), torch.zeros(500_000)), path),
    "sparse": lambda path: torch.save({"w": torch.zeros(4, 4).to_sparse()}, path),
    "meta": lambda path: torch.save({"w": torch.zeros(50_000, 50_000, device="meta")}, path),
}
VERDICTS = {
    "zip bomb": "compressed archive", "instructions": "over 1,000,000 instructions",
    "instructions as before 1.6": "over 1,000,000 instructions", "a pickle without end": "bytes of instructions",
    "filled memory": "asks for memory", "filled by a copy": "asks for memory", "tuples": "nests the same objects",
    "many lists": "1000 lists of weights", "stride bomb": "given out many times",
    "overlapping views": "given out many times", "link farm": "given out many times",
    "sparse": "needed are plain numbers", "meta": "needed are plain numbers",
}  # fmt: skip


def test_bombs_are_refused_before_they_go_off(tmp_path):
    paths = []
    for name, make in BOMBS.items():
        paths.append(tmp_path / f"{name}.pth")
        make(paths[-1])
    process = subprocess.run(
        [sys.executable, "-c", CONVERT_ALL, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    *messages, most = process.stdout.splitlines()
    assert len(messages) == len(BOMBS), process.stderr
    for name, message in zip(BOMBS, messages, strict=True):
        assert VERDICTS[name] in message, f"{name}: {message}"
        assert "weights_only" not in message
    assert int(most) < MOST_BYTES
    assert not list(tmp_path.glob("*.safetensors*"))


def test_tied_weights_are_no_bomb(tmp_path):
    shared = torch.arange(1000.0)
    torch.save({"a": shared, "b": shared, "part": shared[:10], "p": torch.nn.Parameter(shared)}, tmp_path / "m.pth")
    found = load_file(convert(tmp_path / "m.pth", tmp_path / "m.safetensors"))
    assert all(torch.equal(found[name], shared) for name in ("a", "b", "p"))


def test_a_config_of_any_size_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(MAX_JSON + 1)
    with pytest.raises(CheckpointError, match="at most 67,108,864 are read"):
        json_file(tmp_path / "config.json")


PLANTED = """
from pathlib import Path
Path({trace!r}).write_text("run")
class Evil: pass
"""


def test_code_beside_a_tokenizer_is_not_run(published, tmp_path, monkeypatch):
    folder, trace = published / "google" / "umt5-xxl", tmp_path / "trace"
    (folder / "evil.py").write_text(PLANTED.format(trace=str(trace)))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    planted = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | planted))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = open_model(published, "cpu", torch.float32)
    assert model.tokenizer("a person talks", 32).tolist() == [3, 4, 5, 1]
    assert not trace.exists()


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(published):
    path = published / "google" / "umt5-xxl" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {f"w{index}": index for index in range(6, 5000)}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"has 5,000 tokens and .* 259; use the tokenizer"):
        open_model(published, "cpu", torch.float32)


def empty_blocks(path, count, own):
    """A file that names blocks beyond its own, in tensors without a number."""
    save_file(own | {f"blocks.{index}.x": torch.zeros(0) for index in range(6, count)}, path)
    return path


@pytest.mark.parametrize(("count", "verdict"), [(300, "names 300 layers"), (15_000, "layers"), (50_000, "tensors")])
def test_layers_without_weights_are_refused_before_they_are_built(tmp_path, monkeypatch, count, verdict):
    path = empty_blocks(tmp_path / "m.safetensors", count, weights("transformer"))
    monkeypatch.setattr("livetalk_core.checkpoints.load.Transformer", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(CheckpointError, match=verdict):
        transformer_part(path)


def test_a_header_longer_than_any_is_refused(tmp_path):
    header = json.dumps({"__metadata__": {"x": "y" * MAX_HEADER}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="has a header of"):
        open_checkpoint(tmp_path / "m.safetensors")


def test_names_of_any_length_make_messages_that_can_be_read(tmp_path):
    own = weights("transformer")
    save_file(
        own | {f"{'n' * 50_000}.{index}": torch.from_numpy(np.zeros(1)) for index in range(3)},
        tmp_path / "m.safetensors",
    )
    with pytest.raises(CheckpointError) as error:
        transformer_part(tmp_path / "m.safetensors")
    assert "unexpected" in str(error.value) and len(str(error.value)) < 5000


NANO = ROOT / "livetalk_core" / "assets" / "nano_transformer.safetensors"


def test_zeros_in_place_of_weights_are_told(tmp_path, caplog):
    """A download that took its room and stopped: the header is whole, and so is the size."""
    path, data = tmp_path / "m.safetensors", NANO.read_bytes()
    path.write_bytes(data)
    transformer_part(path)
    assert not caplog.text
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    transformer_part(path)
    assert "of its weights, such as" in caplog.text and "nothing but zeros" in caplog.text
