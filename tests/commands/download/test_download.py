"""`download` against a stand-in for the hub: what it says, what it keeps, what it refuses."""

import io
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from livetalk_core.commands.download.hub import look_up, part_of
from livetalk_core.commands.download.plan import Plan, carry_out, planned
from livetalk_core.commands.download.sources import BUNDLES
from livetalk_core.errors import CheckpointError, OutputError

from .stand_in import Hub, serving

ROOT = Path(__file__).resolve().parents[3]
PRO = "SoulX-FlashHead-1_3B/Model_Pro/diffusion_pytorch_model.safetensors"


def pickled(**tensors: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def content_of(name: str) -> bytes:
    """What the stand-in holds under a name: pickles are real ones, the rest any bytes."""
    if name.endswith((".pth", ".pt", ".bin")):
        return pickled(**{"a.weight": torch.arange(6.0).reshape(2, 3)})
    return json.dumps({"name": name}).encode() if name.endswith(".json") else os.urandom(70_000)


def name_for(pattern: str) -> str:
    return pattern.replace("*.safetensors*", "-00001-of-00001.safetensors").replace("*", "tokenizer.json")


@pytest.fixture
def hub():
    """All repositories that `download` knows."""
    hub = Hub()
    for bundle in BUNDLES.values():
        for wanted in bundle.files:
            name = name_for(wanted.pattern)
            assert fnmatchcase(name, wanted.pattern)
            hub.files.setdefault(wanted.repository, {}).setdefault(name, content_of(name))
            hub.licences[wanted.repository] = "apache-2.0"
    with serving(hub):
        yield hub


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The library waits a second before each of its five further tries, and writes 10 MB at a time."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)


def download(hub: Hub, name: str, folder: Path) -> tuple[Plan, list[str]]:
    plan, lines = planned(name, folder, hub.url), []
    carry_out(plan, lines.append)
    return plan, lines


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_arrives_whole_and_converted(hub, tmp_path, name):
    plan, _ = download(hub, name, tmp_path)
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {item.result for item in plan.items}
    for item in plan.items:
        if item.converted is None:
            assert item.target.read_bytes() == hub.files[item.file.repository][item.file.name]
        else:
            assert torch.equal(load_file(item.converted)["a.weight"], torch.arange(6.0).reshape(2, 3))
    assert "generate --model" in plan.next_step or "ComfyUI" in plan.next_step


def test_sizes_and_licences_are_said_before_a_file_is_asked_for(hub, tmp_path):
    hub.sizes["Model_Pro/diffusion_pytorch_model.safetensors"] = 6_030_864_656
    text = "\n".join(planned("flashhead-pro", tmp_path, hub.url).described())
    assert re.search(r"Soul-AILab/SoulX-FlashHead-1_3B  \(licence: apache-2.0\)\n.*\n +6\.0 GB  \S*Model_Pro", text)
    assert "VAE_Wan/Wan2.1_VAE.safetensors" in text and "6.0 GB of it still to come" in text
    assert hub.asked == [] and list(tmp_path.iterdir()) == []


def test_a_licence_that_nobody_states_is_said_to_be_so(hub):
    hub.licences.clear()
    assert look_up("z-rx/leaptalk", hub.url).licence == "not stated"


def test_what_is_there_is_checked_and_not_asked_for_again(hub, tmp_path):
    download(hub, "leaptalk", tmp_path)
    hub.asked.clear()
    plan, lines = download(hub, "leaptalk", tmp_path)
    assert hub.asked == [] and plan.missing == 0 and len(lines) == len(plan.items)
    (tmp_path / PRO).write_bytes(b"x" * 70_000)
    download(hub, "leaptalk", tmp_path)
    assert [name for name, _ in hub.asked] == ["Model_Pro/diffusion_pytorch_model.safetensors"]


def test_parts_that_two_models_share_are_there_once(hub, tmp_path):
    download(hub, "flashhead-pro", tmp_path)
    hub.asked.clear()
    download(hub, "flashhead-lite", tmp_path)
    assert {name.split("/")[0] for name, _ in hub.asked} == {"Model_Lite", "VAE_LTX"}


def test_a_hub_that_breaks_off_is_gone_on_with(hub, tmp_path):
    """Its own retries go on from byte to byte; when they are used up, the part stays for the next run."""
    name = "Model_Pro/diffusion_pytorch_model.safetensors"
    hub.breaks[name] = 0
    with pytest.raises(CheckpointError, match=r"broke off at Model_Pro/.*; what is there is kept: run the same"):
        download(hub, "flashhead-pro", tmp_path)
    assert not (tmp_path / PRO).exists()
    hub.breaks[name] = 30_000
    download(hub, "flashhead-pro", tmp_path)
    assert (tmp_path / PRO).read_bytes() == hub.files["Soul-AILab/SoulX-FlashHead-1_3B"][name]
    assert ("Model_Pro/diffusion_pytorch_model.safetensors", "bytes=30000-") in hub.asked


def test_a_hub_that_breaks_off_is_one_line_on_the_terminal(hub, tmp_path):
    """The library has a line for each of its own tries."""
    hub.breaks["Model_Pro/diffusion_pytorch_model.safetensors"] = 0
    script = (
        "import sys, time; time.sleep = lambda _: None; from livetalk_core.commands.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "download", "flashhead-pro", "--to", str(tmp_path)],
        env={**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "broke off at Model_Pro" in done.stderr
    assert len([name for name, _ in hub.asked if name.startswith("Model_Pro/diff")]) > 1, "it did try again"


def test_a_part_from_before_is_continued(hub, tmp_path):
    plan = planned("flashhead-pro", tmp_path, hub.url)
    whole = hub.files["Soul-AILab/SoulX-FlashHead-1_3B"]["Model_Pro/diffusion_pytorch_model.safetensors"]
    item = next(item for item in plan.items if item.target == tmp_path / PRO)
    part_of(item.target, item.file).parent.mkdir(parents=True)
    part_of(item.target, item.file).write_bytes(whole[:50_000])
    assert item.missing == 20_000
    carry_out(plan, lambda _: None)
    assert ("Model_Pro/diffusion_pytorch_model.safetensors", "bytes=50000-") in hub.asked
    assert (tmp_path / PRO).read_bytes() == whole


@pytest.mark.parametrize("name", ["Model_Pro/diffusion_pytorch_model.safetensors", "Model_Pro/config.json"])
def test_a_hash_that_differs_leaves_nothing(hub, tmp_path, name):
    original = hub.files["Soul-AILab/SoulX-FlashHead-1_3B"][name]
    hub.changed[name] = bytes([original[0] ^ 1]) + original[1:]
    with pytest.raises(CheckpointError, match=rf"{name} of Soul-AILab\S* is not what the hub lists .*deleted"):
        download(hub, "flashhead-pro", tmp_path)
    assert not (tmp_path / "SoulX-FlashHead-1_3B" / name).exists()
    assert not list(tmp_path.rglob("*.part"))


def test_too_little_room_is_said_before_the_first_byte(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(OutputError, match=r"100,000 bytes are free in .*; needed are 14\d,\d+: make room"):
        download(hub, "flashhead-pro", tmp_path / "models")
    assert hub.asked == []


def test_a_disk_that_fills_is_an_error_of_the_disk(hub, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("livetalk_core.commands.download.hub.http_get", full)
    with pytest.raises(OutputError, match=r"cannot write .*part: No space left on device; make room"):
        download(hub, "flashhead-pro", tmp_path)


def test_a_repository_that_has_changed_and_one_that_is_gone(hub, tmp_path):
    del hub.files["z-rx/leaptalk"]["lora/adapter_config.json"]
    with pytest.raises(CheckpointError, match=r"z-rx/leaptalk holds no lora/adapter_config\.json"):
        planned("leaptalk", tmp_path, hub.url)
    del hub.files["z-rx/leaptalk"]
    with pytest.raises(CheckpointError, match="the hub gives no list of z-rx/leaptalk"):
        planned("leaptalk", tmp_path, hub.url)


def test_a_name_that_leads_outside_is_not_in_the_list(hub, tmp_path):
    repository = hub.files["Soul-AILab/SoulX-FlashTalk-14B"]
    repository["google/umt5-xxl/../../../../evil.json"] = b"{}"
    plan, _ = download(hub, "14b", tmp_path / "inside")
    assert not any("evil" in item.file.name for item in plan.items)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_the_command(hub, tmp_path):
    """As a user runs it, the hub being the one that the library's own variable names."""

    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "livetalk_core", "download", "flashhead-lite", "--to", "my models", *options],
            cwd=tmp_path, env={**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "VAE_LTX" in run("--dry-run") and hub.asked == []
    assert "--model 'my models'/SoulX-FlashHead-1_3B/Model_Lite --image portrait.png" in run()
    assert (tmp_path / "my models/SoulX-FlashHead-1_3B/VAE_LTX/config.json").exists()
