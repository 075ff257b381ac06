"""`train` from recordings to exported weights, small: every stage once, then generated with."""

import errno
import json
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from livetalk_core.checkpoints import convert, nano
from livetalk_core.commands.main import main
from livetalk_core.training import commands
from livetalk_core.training.settings import Settings
from livetalk_core.training.trainer import Schedule

DATA = """
[data]
speech = "{folder}/speech"
pool = "{folder}/pool"
takes = 2
windows = 2
sizes = [[32, 32]]
"""
SCHEDULE = """
[schedule]
steps = 2
workers = 0
log_every = 1
save_every = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a recording and prepared takes."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "speech").mkdir()
    noise = np.random.default_rng(0).normal(size=16_000 * 5) * 3000 * (np.arange(80_000) // 4000 % 2)
    with wave.open(str(folder / "speech/a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(noise.astype("<i2").tobytes())
    assert run(folder, "prepare", "") == 0
    return folder


@pytest.mark.parametrize(("setting", "repeats"), [(None, True), (False, False), (True, True)])
def test_a_repeated_portrait_is_the_trained_transformers(setting, repeats):
    settings = Settings(Schedule(steps=1), repeats_portrait=setting)
    assert commands.Run(settings).transformer(trained=True).config.repeats_portrait == repeats


def run(folder, stage: str, settings: str, *options: str, data: str = "") -> int:
    config = folder / f"{stage}.toml"
    config.write_text(settings + DATA.format(folder=folder) + data + SCHEDULE)
    return main(["train", stage, "--config", str(config), *options])


def test_preparing_again_makes_nothing_new(folder, capsys):
    shard = folder / "pool/32x32-00000.safetensors"
    made = shard.stat().st_mtime_ns
    assert run(folder, "prepare", "") == 0
    assert str(shard) in capsys.readouterr().out
    assert shard.stat().st_mtime_ns == made


def test_both_stages_train_and_export(folder, capsys):
    task = "\n[task]\nclips = 1\n"
    assert run(folder, "adapt", "", "--output", str(folder / "adapt"), data=task) == 0
    exported = folder / "student.safetensors"
    distill = ["--output", str(folder / "distill"), "--export", str(exported)]
    settings = task + "chunks = 2\ncritic_steps = 1\n"
    assert run(folder, "distill", f'init = "{folder}/adapt"\n', *distill, data=settings) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(exported)
    rows = [json.loads(line) for line in (folder / "distill/record.jsonl").read_text().splitlines()]
    assert ["matching" in row for row in rows] == [False, True]
    assert (folder / "distill/record.png").exists()
    with torch.device("meta"):
        needed = nano.Transformer(nano.PRESET.transformer).state_dict()
    weights = load_file(exported)
    assert {name: tensor.shape for name, tensor in weights.items()} == {n: t.shape for n, t in needed.items()}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    check_an_export_that_fails_keeps_the_old_file(folder, exported, distill, settings)


def check_an_export_that_fails_keeps_the_old_file(folder, exported, options, settings):
    before = exported.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_put", disk_full)
        assert run(folder, "distill", f'init = "{folder}/adapt"\n', *options, data=settings) == 1
    assert exported.read_bytes() == before
    assert not list(folder.glob("student*.tmp"))


def disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_where_nothing_can_be_exported_nothing_is_trained(folder, capsys):
    options = ["--output", str(folder / "z"), "--export"]
    assert run(folder, "adapt", "", *options, str(folder / "nowhere/student.safetensors")) == 1
    assert "nowhere is no folder; student.safetensors is written there" in capsys.readouterr().err
    assert run(folder, "adapt", "", *options, str(folder)) == 1
    assert "is a folder; needed is the name of a file" in capsys.readouterr().err
    assert not (folder / "z").exists()


def test_of_several_processes_one_exports(folder, monkeypatch):
    monkeypatch.setattr(commands, "Accelerator", lambda: SimpleNamespace(is_main_process=False))
    commands.export("adapt", Settings(Schedule(1)), folder / "nothing", folder / "other.safetensors")
    assert not (folder / "other.safetensors").exists()


def test_a_blend_lies_between_the_first_and_the_trained_weights(folder):
    first, given = load_file(nano.asset("transformer")), f'init = "{nano.asset("transformer")}"\n'
    task, exported = "\n[task]\nclips = 1\n", [folder / "whole.safetensors", folder / "half.safetensors"]
    for path, blend in zip(exported, ("", "blend = 0.5\n"), strict=True):
        options = ["--output", str(folder / "blended"), "--export", str(path)]
        assert run(folder, "adapt", given + blend, *options, data=task) == 0
    whole, half = map(load_file, exported)
    assert any(not torch.equal(first[name], whole[name]) for name in first)
    for name, tensor in half.items():
        torch.testing.assert_close(tensor.float(), (first[name].float() + whole[name].float()) / 2, atol=1e-3, rtol=0)
    assert run(folder, "adapt", "blend = 0.5\n", "--output", str(folder / "z"), data=task) == 1


def test_a_decoder_that_learned_from_its_own_trips_is_blended_with_the_models(folder):
    first, exported = load_file(nano.asset("vae")), [folder / "whole_vae.safetensors", folder / "half_vae.safetensors"]
    for path, blend in zip(exported, ("", "blend = 0.5\n"), strict=True):
        options = ["--output", str(folder / "trips"), "--export", str(path)]
        settings = f"{blend}phases = [[9, 1, 5, 32]]\n"
        assert run(folder, "vae", settings, *options, data="\n[task]\ntrips = 1\nsize = 48\n") == 0
    whole, half = map(load_file, exported)
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], whole[name])}
    assert changed == {"decoder", "conv2"}
    for name, tensor in half.items():
        torch.testing.assert_close(tensor.float(), (first[name].float() + whole[name].float()) / 2, atol=1e-3, rtol=0)


def test_what_is_missing_is_named(folder, capsys):
    assert run(folder, "adapt", "") == 1
    assert "has no --output" in capsys.readouterr().err
    assert run(folder, "distill", f'init = "{folder}/nowhere"\n', "--output", str(folder / "x")) == 1
    assert "is no checkpoint" in capsys.readouterr().err
    assert run(folder, "vae", f'init = "{folder}/first"\nblend = 0.5\n', "--output", str(folder / "v")) == 1
    assert "adapt, distill and lora take one" in capsys.readouterr().err
    assert run(folder, "adapt", "", "--output", str(folder / "y"), data="\n[task]\nspeed = 1\n") == 1
    assert "speed" in capsys.readouterr().err
